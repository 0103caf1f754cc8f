"""Metrics endpoints changed as servers, exporters and proxies change them, and what may come out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ai_otel.contract import Engine

NONE = ("", "N/A", "00000000-0000-0000-0000-000000000000", "undefined", "4294967295")
"""What an exporter writes into a label that has no value."""
SWAPPED = {"counter": "gauge", "gauge": "counter", "histogram": "summary", "summary": "histogram"}
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)")
_ENDS = ("_bucket", "_sum", "_count", "_total", "_created")


@dataclass(frozen=True)
class Mutation:
    """One changed page. `attribute` is the key of the label that was changed, else empty."""

    name: str
    text: str
    attribute: str = ""


def mutations(engine: Engine, page: str) -> Iterator[Mutation]:
    """Every change of one page."""
    yield Mutation("no-types", _lines(page, lambda line: None if line.startswith("#") else line))
    yield Mutation("swapped-types", _typed(page, SWAPPED))
    yield Mutation("all-untyped", _typed(page, dict.fromkeys(SWAPPED, "untyped")))
    yield Mutation("all-gauges", _typed(page, dict.fromkeys(SWAPPED, "gauge")))
    yield Mutation("duplicate-families", page + page)
    yield Mutation("split-families", _split(page))
    for native in sorted(_parts(engine)):
        if re.search(rf"^{re.escape(native)}[{{ ]", page, re.MULTILINE):
            yield Mutation(f"without-{native.rpartition(':')[2]}", _without(page, native))
    for label, target in engine["labels"].items():
        if re.search(rf'[{{,]{label}="', page):
            for number, text in enumerate(NONE):
                yield Mutation(f"{label}-{number}", _labelled(page, label, text), target["attribute"])


def _labelled(page: str, label: str, text: str) -> str:
    """The label of every series says the text; of only some where series would no longer differ, which no page has."""
    changed = re.sub(rf'([{{,]){label}="[^"]*"', rf'\g<1>{label}="{text}"', page)
    series = [line.rpartition(" ")[0] for line in changed.splitlines() if not line.startswith("#")]
    if len(set(series)) == len(series):
        return changed
    first = re.search(rf'[{{,]{label}="([^"]+)"', page)
    value = re.escape(first[1]) if first else ""
    return re.sub(rf'([{{,]){label}="{value}"', rf'\g<1>{label}="{text}"', page)


def _lines(page: str, change: Callable[[str], str | None]) -> str:
    changed = (change(line) for line in page.splitlines())
    return "".join(f"{line}\n" for line in changed if line is not None)


def _typed(page: str, types: Mapping[str, str]) -> str:
    def change(line: str) -> str:
        if not line.startswith("# TYPE "):
            return line
        start, _, kind = line.rpartition(" ")
        return f"{start} {types.get(kind, kind)}"

    return _lines(page, change)


def _without(page: str, native: str) -> str:
    return _lines(page, lambda line: None if re.match(rf"(# \w+ )?{re.escape(native)}([{{ ]|$)", line) else line)


def _parts(engine: Engine) -> set[str]:
    """The source metrics that a sum needs."""
    required = [each for row in engine["metrics"] for each in row.get("requires", ())]
    return {native for each in required for native in (each if isinstance(each, list) else [each])}


def _split(page: str) -> str:
    """Every second series of each family comes at the end, under the family's head again."""
    first: list[str] = []
    last: dict[str, list[str]] = defaultdict(list)
    heads: dict[str, list[str]] = defaultdict(list)
    family, seen = "", dict[tuple[str, str], int]()
    for line in page.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            found = re.match(r"# \w+ (\S+)", line)
            family = found[1] if found else family
            heads[family].append(line)
            first.append(line)
            continue
        labels = re.sub(r'(^|,|{)(le|quantile)="[^"]*"', "", sample[2] or "")
        number = seen.setdefault((family, labels), sum(1 for name, _ in seen if name == family))
        (last[family] if number % 2 else first).append(line)
    end = [line for family, lines in last.items() for line in (*heads[family], *lines)]
    return "".join(f"{line}\n" for line in (*first, *end))


# What may come out.


def wrong(before: Iterable[str], after: Iterable[str], attribute: str) -> list[str]:
    """
    The points that are not as before: the same value, or none, is right.

    Where a label is missing, series that differ only in it may be one: with their sum, their highest value or their
    lowest one.
    """
    kept = set(before)
    changed = [line for line in after if line not in kept]
    if not attribute:
        return changed
    merged: dict[str, list[str]] = defaultdict(list)
    for line in kept:
        head, value = _divided(line, attribute)
        merged[head].append(value)
    return [line for line in changed if not _possible(*_divided(line, attribute), merged)]


def _divided(line: str, attribute: str) -> tuple[str, str]:
    """Everything but the attribute and the value; and the value."""
    head, _, value = line.rpartition("} ")
    start, _, pairs = head.rpartition(" {")
    others = [pair for pair in pairs.split(", ") if pair and not pair.startswith(f"{attribute}=")]
    return f"{start} {{{', '.join(others)}}}", value


def _possible(head: str, value: str, merged: Mapping[str, list[str]]) -> bool:
    values = merged.get(head, [])
    numbers = [_numbers(each) for each in values]
    found = _numbers(value)
    sums = tuple(map(sum, zip(*numbers, strict=True))) if numbers else ()
    return value in values or _close(found, sums) or any(_close(found, each) for each in numbers)


def _numbers(value: str) -> tuple[float, ...]:
    """The number; of a histogram count and sum."""
    histogram = re.match(r"count=(\S+) sum=(\S+)", value)
    return (float(histogram[1]), float(histogram[2])) if histogram else (float(value),)


def _close(found: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    return len(found) == len(wanted) and all(
        abs(one - other) <= 1e-9 * max(1.0, abs(other)) for one, other in zip(found, wanted, strict=True)
    )
