"""What came out of a Collector as lines of text, one a point, so that a golden file can be read and a diff says all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.collector.process import Tree, attributes_of

WRITE = "AI_OTEL_WRITE_GOLDENS"
KINDS = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
# Of one run: where the page was.
VOLATILE = {"service.instance.id", "server.address", "server.port", "url.scheme"}


def metric_lines(exports: Iterable[Tree]) -> list[str]:
    """Resources first, then every point: name, type, unit, attributes, value."""
    lines: set[str] = set()
    for export in exports:
        for resource_metrics in export["resourceMetrics"]:
            kept = {k: v for k, v in attributes_of(resource_metrics["resource"]).items() if k not in VOLATILE}
            lines.add(f"resource {_pairs(kept)}")
            for scope_metrics in resource_metrics["scopeMetrics"]:
                for metric in scope_metrics["metrics"]:
                    lines.update(_points(metric))
    return sorted(lines, key=lambda line: (not line.startswith("resource "), line))


def _points(metric: Tree) -> Iterator[str]:
    kind = next(kind for kind in KINDS if kind in metric)
    body = metric[kind]
    shape = {"gauge": "gauge", "summary": "summary"}.get(kind)
    if kind == "sum":
        shape = "counter" if body.get("isMonotonic") else "updowncounter"
    if shape is None:
        shape = "histogram"
    if body.get("aggregationTemporality", 2) != 2:
        shape += " delta"
    for point in body["dataPoints"]:
        if point.get("flags", 0) & 1:  # the mark that a series has ended, where a read came too late
            continue
        yield f"{metric['name']} {shape} {metric.get('unit', '-')} {_pairs(attributes_of(point))} {_value(point)}"


def _pairs(attributes: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}={value}" for key, value in sorted(attributes.items())) + "}"


def _value(point: Tree) -> str:
    if "bucketCounts" in point or "count" in point:
        bounds = [*(f"{bound:.12g}" for bound in point.get("explicitBounds", [])), "inf"]
        filled = [f"{b}:{n}" for b, n in zip(bounds, point.get("bucketCounts", []), strict=False) if int(n)]
        edges = f" of {len(bounds)} from {bounds[0]} to {bounds[-2]}" if len(bounds) > 1 else ""
        return f"count={point['count']} sum={point.get('sum', 0):.12g} [{' '.join(filled)}{edges}]"
    number = point.get("asDouble", point.get("asInt"))
    return f"{float(number):.12g}" if number is not None else "no value"


def page_names(page: str) -> list[str]:
    """Names, types and label names on a Prometheus page."""
    types: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            family = _family(name.split(" ")[0], types)
            inside = rest.rpartition("}")[0]
            labels.setdefault(family, set()).update(_label_names(inside))
    return [f"{name} {kind} {{{', '.join(sorted(labels.get(name, ())))}}}" for name, kind in sorted(types.items())]


def _family(sample: str, types: Mapping[str, str]) -> str:
    for suffix in ("", "_bucket", "_sum", "_count", "_total"):
        if sample.endswith(suffix) and (family := sample.removesuffix(suffix)) in types:
            return family
    return sample


def _label_names(inside: str) -> Iterator[str]:
    quoted = False
    name = ""
    for previous, letter in zip(" " + inside, inside, strict=False):
        if letter == '"' and previous != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter == "=":
            if name != "le":
                yield name
            name = ""
        elif letter == ",":
            name = ""
        else:
            name += letter


def compare(found: list[str], golden: Path) -> None:
    """Hold the lines against the file; with AI_OTEL_WRITE_GOLDENS=1, write the file instead."""
    if os.environ.get(WRITE):
        golden.write_text("\n".join(found) + "\n")
    wanted = golden.read_text().splitlines() if golden.exists() else []
    assert found == wanted, f"not as in {golden.name}; if the new one is right: {WRITE}=1 pytest …"
