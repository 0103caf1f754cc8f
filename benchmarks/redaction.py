"""
What the Collector's features `redaction`, `tail_sampling`, `names` cost: `python benchmarks/redaction.py [--rounds N]`.

One gateway for each choice of features, all of the same binary, each sent the same traces in turn, under two minutes
in all. The figure is spans for one second of a core, by the process's own CPU time until the last trace is decided, and
the best of the rounds: what else the machine does makes it worse, never better. What the gateways export goes nowhere:
without a feature it is the cost of receiving alone, so in a pipeline that also sends the difference is smaller.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / place) for place in ("src", "tools", "tests")]

from harness.collector.cost import TRACES, Traffic, gateways, turn  # noqa: E402

CHOICES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "redaction": ("redaction",),
    "sampling": ("tail_sampling",),
    "both": ("redaction", "tail_sampling"),
    "names": ("names",),
}

REQUESTS: Mapping[str, int] = {"small spans": 400, "the library's own spans": 400}
"""How many requests make a round; 40 of those with long texts."""


def measure(rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    """For each kind of trace, the best rate of each choice."""
    with tempfile.TemporaryDirectory() as place, gateways(CHOICES, Path(place)) as collectors:
        for kind, trace in TRACES.items():
            traffic = Traffic(trace)
            # The first round warms up.
            found = [turn(collectors, traffic, REQUESTS.get(kind, 40)) for _ in range(rounds + 1)][1:]
            yield kind, {name: max(costs[name].rate for costs in found) for name in collectors}


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/redaction.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    print(f"{'spans for a second of one core':<42}" + "".join(f"{name:>12}" for name in CHOICES))
    for kind, rates in measure(rounds):
        print(f"  {kind:<40}" + "".join(f"{rates[name]:>12,.0f}" for name in CHOICES), flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
