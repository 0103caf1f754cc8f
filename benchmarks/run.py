"""
What ai-otel costs: `make bench`, or `python benchmarks/run.py [--quick] [--json FILE]`.

Everything is measured in turn within one run, and compared round by round: on a shared machine only the ratios hold.
The floor is what the same data costs at least: plain SDK spans and histogram points, written into the server by hand.
`--quick` takes under 20 seconds and fails where a ratio is far from its aim.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import serving
import starts
from measure import Figure

HEAD = f"  {'':<58}{'best':>9}{'median':>9}{'worst':>9}"

FAR = {serving.OF_PATH: 0.25, serving.OF_FLOOR: 1.6, serving.OF_FULL_FLOOR: 1.6}
"""What a smoke check does not let pass; ratios, so that a slow machine is no failure."""


def machine() -> dict[str, str]:
    """What the figures hold for."""
    distributions = ("opentelemetry-api", "opentelemetry-sdk", "wrapt")
    return {
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
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


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py", description="What ai-otel costs.")
    parser.add_argument("--quick", action="store_true", help="a smoke check of under 20 s; exits 1 far from the aims")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    asked = parser.parse_args()
    rounds = 8 if asked.quick else 60
    where = machine()
    print("\n".join(f"{name + ':':<20}{value}" for name, value in where.items()))
    parts: dict[str, Callable[[], list[Figure]]] = {
        "One request": lambda: serving.requests(rounds),
        "Streams": lambda: serving.chunks(rounds),
        "Pauses": lambda: serving.pauses(rounds // 2),
        "Start of an interpreter": lambda: starts.starts(3 if asked.quick else 30),
    }
    figures: list[Figure] = []
    for title, part in parts.items():
        print(f"\n{title}\n{HEAD}")
        found = part()
        print("\n".join(map(str, found)), flush=True)
        figures += found
    if asked.json:
        Path(asked.json).write_text(json.dumps({"where": where, "figures": [as_json(f) for f in figures]}, indent=1))
    return far(figures) if asked.quick else 0


def as_json(figure: Figure) -> dict[str, object]:
    """One row."""
    return {
        "name": figure.name.strip(),
        "unit": figure.unit,
        "best": figure.series.best,
        "median": figure.series.median,
        "worst": max(figure.series.values),
        "aim": figure.aim,
        "rounds": len(figure.series.values),
    }


def far(figures: Sequence[Figure]) -> int:
    """Say which ratios are out of all proportion; the exit status."""
    bad = [figure for figure in figures if figure.series.best > FAR.get(figure.name, float("inf"))]
    for figure in bad:
        print(f"FAR OFF: {figure.name.strip()} is {figure.series.best:.2f} at best, more than {FAR[figure.name]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
