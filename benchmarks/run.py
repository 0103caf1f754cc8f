"""
What ai-otel costs: `make bench`, or `python benchmarks/run.py [--quick] [--strict] [--json FILE]`.

Each server runs in a process of its own and exports to a receiver in another; all are measured in turn within one run,
round by round, and compared within a round: on a shared machine only the ratios hold. `--quick` takes less than a
minute and fails above the limits of `targets.LIMITS`; `--strict` fails where a target is not met.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import loops
import memory
import paths
import starts
import totals
from children import Child, Sink, server, servers, sink
from measure import HEAD, Figure
from targets import LIMITS, TARGETS, judged


def machine() -> dict[str, str]:
    """What the figures hold for."""
    distributions = ("opentelemetry-sdk", "wrapt")
    return {
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{os.cpu_count()} x {platform.machine()}, {processor()}, {platform.system()}",
        **{name: version(name) for name in distributions},
    }


def processor() -> str:
    """The processor's name, if the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


class Result:
    """The figures by part, printed as they come."""

    def __init__(self, how: dict[str, object]) -> None:
        self.where = machine()
        self.how = how
        self.figures: list[dict[str, Any]] = []
        print("\n".join(f"{name + ':':<20}{value}" for name, value in self.where.items()))

    def add(self, part: str, title: str, found: Sequence[Figure]) -> None:
        """Print a part's figures and keep them."""
        print(f"\n{title}\n{HEAD}")
        print("\n".join(map(str, found)), flush=True)
        self.figures += [{"part": part} | as_json(figure) for figure in found]

    @property
    def by_key(self) -> dict[str, dict[str, Any]]:
        """The figures by their keys."""
        return {figure["key"]: figure for figure in self.figures}

    def write(self, path: Path) -> None:
        """Write all, for `report.py`."""
        path.write_text(json.dumps({"where": self.where, "how": self.how, "figures": self.figures}, indent=1) + "\n")


def as_json(figure: Figure) -> dict[str, Any]:
    """One row."""
    series = figure.series
    return {
        "key": figure.key or figure.name.strip(),
        "name": figure.name.strip(),
        "unit": figure.unit,
        "median": rounded(series.median),
        "best": rounded(series.best),
        "worst": rounded(series.worst),
        "limit": figure.aim,
        "ratio": None if figure.ratio is None else rounded(figure.ratio.median),
        "rounds": len(series.values),
    }


def rounded(value: float) -> float | None:
    """With four significant digits, or whole: more would be noise. `None` for what is not a number."""
    if math.isnan(value):
        return None
    return value if value == int(value) else float(f"{value:.4g}")


def measure(result: Result, *, quick: bool, rounds: int) -> None:
    """All parts, one after another."""
    with tempfile.TemporaryDirectory() as folder, sink() as receiver:
        empty, filled = Path(folder, "empty.json"), Path(folder, "recipe.json")
        empty.write_text("{}")
        with server("ai-otel", empty, receiver.url) as observed:
            recipe = totals.derive(observed, receiver)
            filled.write_text(json.dumps(recipe))
            others = ("nothing", "plain", "plain-bare", "ai-otel-bare", "prometheus", "asgi")
            with servers(dict.fromkeys(others, filled), receiver.url) as running:
                in_turn(result, running | {"ai-otel": observed}, receiver, recipe, rounds, quick=quick)
        title = f"Memory at {memory.RATE:g} requests per second, {result.how['flood_s']:g} s, telemetry without a taker"
        result.add("memory", title, memory.figures(memory.measure(empty, float(str(result.how["flood_s"])))))
    result.add("start", "Start of an interpreter", starts.starts(3 if quick else 20))


def in_turn(
    result: Result,
    running: dict[str, Child],
    receiver: Sink,
    recipe: dict[str, Any],
    rounds: int,
    *,
    quick: bool,
) -> None:
    """What is measured of servers that run side by side."""
    if wrong := totals.verify(running, receiver, recipe):
        raise SystemExit(f"the telemetry of these servers is not what it must be: {', '.join(wrong)}")
    took = totals.measure(running, receiver, rounds, 0.6 if quick else 1.0)
    title = f"One request at {totals.RATE:g}/s, until acknowledged; metrics every {totals.INTERVAL_S:g} s"
    result.add("total", title, totals.figures(took, recipe))
    result.add("path", "On the path", paths.figures(*paths.measure(running, rounds if quick else 2 * rounds)))
    ends, turns = ((1000,), 3) if quick else ((10, 100, 1000), rounds)
    result.add("pause", "Pauses of the event loop", loops.figures(loops.measure(running, turns, ends)))
    if wrong := totals.verify(running, receiver, recipe):
        raise SystemExit(f"the telemetry of these servers is no longer what it must be: {', '.join(wrong)}")


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py", description="What ai-otel costs.")
    parser.add_argument("--quick", action="store_true", help="a smoke check of less than a minute, with limits")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is not met")
    parser.add_argument("--rounds", type=int, help="of each comparison; 15 by default")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    asked = parser.parse_args()
    rounds = asked.rounds or (3 if asked.quick else 15)
    how: dict[str, object] = {
        "rounds": rounds,
        "rate": totals.RATE,
        "interval_s": totals.INTERVAL_S,
        "flood_rate": memory.RATE,
        "flood_s": 8.0 if asked.quick else 30.0,
    }
    result = Result(how)
    measure(result, quick=asked.quick, rounds=rounds)
    if asked.json:
        result.write(Path(asked.json))
    verdicts = list(judged(result.by_key, TARGETS))
    print("\nTargets", *verdicts, sep="\n")
    over = [each for each in judged(result.by_key, LIMITS) if not each.met] if asked.quick else []
    if over:
        print("\nAbove the limits", *over, sep="\n")
    return 1 if over or (asked.strict and not all(each.met for each in verdicts)) else 0


if __name__ == "__main__":
    sys.exit(main())
