"""
Write the tables and charts of docs/overhead.md from the results: `python benchmarks/report.py [--check]`.

The results are `results/overhead.json` (`run.py --json`) and `results/vllm.json` (`vllm_ab.py --json`). A table stands
between two comments, `<!-- figures: NAME -->` and `<!-- end -->`. `--check` writes nothing and fails where the page is
not what the results make it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import chart
from chart import Bar
from targets import judged

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/overhead.md"
IMAGES = ROOT / "docs/images"

Json = dict[str, Any]

BLOCK = re.compile(r"(?P<head><!-- figures: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
UNITS = {"us": "µs", "x": "×", "/s": "/s"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns after the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | None, unit: str = "") -> str:
    """A value with three significant digits and its unit; a dash for one that is unknown."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {UNITS.get(unit, unit)}".strip().replace(" /s", "/s")


class Overhead:
    """The tables of `run.py`'s result."""

    def __init__(self, result: Json) -> None:
        self.where: Mapping[str, str] = result["where"]
        self.how: Mapping[str, Any] = result["how"]
        self.figures: Sequence[Json] = result["figures"]
        self.by_key = {figure["key"]: figure for figure in self.figures}

    def of(self, part: str) -> list[Json]:
        """The figures of a part."""
        return [figure for figure in self.figures if figure["part"] == part]

    def machine(self) -> str:
        """What was run, where and when."""
        where, how = self.where, self.how
        return (
            f"`make bench`, {where['date']}, {how['rounds']} rounds; {where['machine']}; {where['python']}, "
            f"opentelemetry-sdk {where['opentelemetry-sdk']}, wrapt {where['wrapt']}. Requests arrive at "
            f"{how['rate']:g} per second; metrics are exported every {how['interval_s']:g} s.\n"
        )

    def targets(self) -> str:
        """Every target, those that are not met first."""
        found = sorted(judged(self.by_key), key=lambda each: each.met)
        rows = [
            (
                each.target.what,
                f"≤ {each.target.limit:g} {UNITS.get(each.target.unit, each.target.unit)}",
                number(each.measured, each.target.unit),
                "yes" if each.met else "**no**",
            )
            for each in found
        ]
        return table(("figure (median)", "target", "measured", "met"), rows)

    def rows(self, part: str) -> str:
        """A part's figures, one a row."""
        return table(
            ("", "median", "of the plain SDK's", "best", "worst"),
            [
                (
                    bold(figure["name"]),
                    number(figure["median"], figure["unit"]),
                    number(figure["ratio"]) if figure["ratio"] is not None else "",
                    number(figure["best"], figure["unit"]),
                    number(figure["worst"], figure["unit"]),
                )
                for figure in self.of(part)
            ],
        )

    def starts(self) -> str:
        """The start of an interpreter, with its limits."""
        return table(
            ("", "limit", "median", "best", "worst"),
            [
                (
                    bold(figure["name"]),
                    "" if figure["limit"] is None else f"{figure['limit']:g} {figure['unit']}",
                    *(number(figure[key], figure["unit"]) for key in ("median", "best", "worst")),
                )
                for figure in self.of("start")
            ],
        )

    def pauses(self) -> str:
        """Each case and server: percentiles, and what is added to the 99th."""
        rows = []
        for case in dict.fromkeys(figure["key"].split(".")[1] for figure in self.of("pause")):
            what = self.by_key[f"p50.{case}.nothing"]["name"].partition(", p50")[0]
            for name, title in (
                ("nothing", "nothing observed"),
                ("plain", "plain SDK by hand"),
                ("ai-otel", "ai-otel"),
            ):
                values = [self.by_key[f"{share}.{case}.{name}"]["median"] for share in ("p50", "p99", "max")]
                added = self.by_key.get(f"added.{case}.{name}", {}).get("median")
                cells = [number(value, "ms") for value in values]
                rows.append((what, bold(title), *cells, number(added, "ms") if added is not None else ""))
        return table(("", "server", "p50", "p99", "max", "added to p99"), rows)

    def memory(self) -> str:
        """One column for each endpoint."""
        rows: dict[str, list[str]] = {}
        heads: dict[str, None] = {}
        for figure in self.of("memory"):
            endpoint, _, what = figure["name"].partition(": ")
            heads[endpoint] = None
            rows.setdefault(what, []).append(count(figure["median"], figure["unit"]))
        return table(("", *heads), [(what, *cells) for what, cells in rows.items()])

    def bars(self) -> list[Bar]:
        """The chart's rows."""
        labels = {
            "total.asgi": "OpenTelemetry ASGI (HTTP only)",
            "total.plain": "plain SDK by hand",
            "total.ai-otel": "ai-otel",
            "total.ai-otel-bare": "ai-otel, without phase spans",
            "total.prometheus": "prometheus_client (no spans)",
        }
        found = [(label, self.by_key[key], key) for key, label in labels.items() if key in self.by_key]
        return [Bar(label, f["median"], number(f["median"], "us"), "ai-otel" in key) for label, f, key in found]


def bold(name: str) -> str:
    """A row's name; ai-otel's stand out."""
    return re.sub(r"(?<!`)\bai-otel\b(?!`)", "**ai-otel**", name, count=1)


def count(value: float, unit: str) -> str:
    """A number of things, or a size."""
    return number(value, unit) if unit == "MiB" else f"{value:,.0f}{unit}"


class Engine:
    """The tables of `vllm_ab.py`'s result."""

    def __init__(self, result: Json) -> None:
        self.result = result

    def machine(self) -> str:
        """What was run."""
        where, how = self.result["where"], self.result["how"]
        return (
            f"`python benchmarks/vllm_ab.py`, {where['date']}, {how['rounds']} rounds of {how['requests']} requests; "
            f"{where['machine']}; vLLM {where['vllm']} on CPU, float32, a model with random weights. {how['pinning']}\n"
        )

    def load(self, load: str) -> str:
        """One load: the bare server's median, and of the others the ratio with its interval."""
        others = [name for name in self.result["variants"] if name != "bare"]
        rows = []
        for row in self.result["loads"][load]:
            cells = []
            for name in others:
                found = row["others"][name]
                low, high = (f"{100 * found[key]:+.1f}" for key in ("low", "high"))
                cells.append(f"{found['ratio']:.3f} ({low} to {high} %)")
            rows.append((row["name"], number(row["bare"], row["unit"]), *cells))
        return table(("", "bare, median", *(bold(self.result["variants"][name]) for name in others)), rows)


def blocks() -> dict[str, Callable[[], str]]:
    """What stands between the comments of the page, by name."""
    overhead = Overhead(json.loads((RESULTS / "overhead.json").read_text()))
    found: dict[str, Callable[[], str]] = {
        "machine": overhead.machine,
        "targets": overhead.targets,
        "total": lambda: overhead.rows("total"),
        "path": lambda: overhead.rows("path"),
        "pause": overhead.pauses,
        "memory": overhead.memory,
        "start": overhead.starts,
    }
    if (path := RESULTS / "vllm.json").exists():
        engine = Engine(json.loads(path.read_text()))
        found["engine"] = engine.machine
        found |= {f"engine-{load}": lambda load=load: engine.load(load) for load in engine.result["loads"]}
    return found


def page() -> str:
    """The page with every table as the results have it."""
    made = blocks()
    return BLOCK.sub(lambda found: f"{found['head']}\n{made[found['name']]()}\n{found['end']}", PAGE.read_text())


def images() -> dict[Path, str]:
    """The charts by file."""
    rows = Overhead(json.loads((RESULTS / "overhead.json").read_text())).bars()
    title, unit = "CPU time added to one request", "µs, from arrival to acknowledged bytes (median)"
    return {
        IMAGES / f"overhead-{name}.svg": chart.bars(title, unit, rows, theme) for name, theme in chart.THEMES.items()
    }


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(prog="python benchmarks/report.py", description="Tables and charts of a page.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale")
    asked = parser.parse_args()
    wanted = {PAGE: page(), **images()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if asked.check:
        print("\n".join(f"stale: {path.relative_to(ROOT)}" for path in stale) or "up to date")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path])
    for name, make in blocks().items():
        print(f"### {name}\n\n{make()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
