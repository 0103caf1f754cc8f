"""Compare two captures of OTLP: what a refactoring must leave as it was.

    OTLP_CAPTURE_DIR=/tmp/before .venv/bin/pytest tests/engines/vllm     before the change
    OTLP_CAPTURE_DIR=/tmp/after .venv/bin/pytest tests/engines/vllm      after it
    python tools/compare_otlp.py /tmp/before /tmp/after

A capture is a directory of `*.jsonl`, one OTLP/JSON request a line; `tests/harness` writes one file for each receiver.
Times, identifiers and measured values differ from run to run, so shapes are compared, not bytes:

- a span: its scope with schema URL, name, kind, status, its parent's name, its attributes, events and links;
- a point: its scope with schema URL, metric, type, unit, temporality, monotonicity, bucket bounds and
  its attributes;
- the attributes of a resource.

Of an attribute its key, its type and, where it is text without an identifier, its value are compared. Descriptions
are compared by metric and listed apart. The exit status is 1 where a shape is in one capture only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-fA-F]{12,}|/tmp/|127\.0\.0\.1|localhost|:\d{4,5}\b|\bpid\b|\d{4}-\d\d-\d\d|-\d{4,}"
)
"""What differs between runs inside a text."""
IDENTIFIERS = {
    *("gen_ai.response.id", "service.instance.id", "server.address", "hw.id"),
    *("host.name", "host.id", "process.command_line", "process.command_args", "process.owner"),
    *("k8s.pod.name", "k8s.pod.uid", "k8s.namespace.name", "k8s.node.name"),
}


@dataclass
class Capture:
    """The shapes of one capture, each with the number of times it was seen."""

    spans: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    resources: Counter[str] = field(default_factory=Counter)
    descriptions: dict[str, str] = field(default_factory=dict)

    def add(self, request: Json) -> None:
        """Add one export request, of spans or of metrics."""
        for each in request.get("resourceSpans", ()):
            self._add_resource(each)
            names = {span["spanId"]: span["name"] for span in _items(each, "scopeSpans", "spans")}
            for scope in each.get("scopeSpans", ()):
                self.spans.update(span_shape(scope, span, names) for span in scope.get("spans", ()))
        for each in request.get("resourceMetrics", ()):
            self._add_resource(each)
            for scope in each.get("scopeMetrics", ()):
                for metric in scope.get("metrics", ()):
                    self.descriptions[metric["name"]] = metric.get("description", "")
                    self.points.update(point_shapes(scope, metric))

    def _add_resource(self, each: Json) -> None:
        self.resources[dumped(attributes(each.get("resource", {})))] += 1


def _items(each: Json, outer: str, inner: str) -> Iterator[Json]:
    for scope in each.get(outer, ()):
        yield from scope.get(inner, ())


def dumped(shape: Any) -> str:
    """Return a shape as one line of JSON with sorted keys."""
    return json.dumps(shape, sort_keys=True, ensure_ascii=False)


def attributes(holder: Json) -> Json:
    """Return the attributes of a span, point or resource: key → type, or the text itself where it is stable."""
    return {item["key"]: _value(item["key"], item.get("value", {})) for item in holder.get("attributes", ())}


def _value(key: str, value: dict[str, Any]) -> Any:
    kind = next(iter(value), "empty")
    content: Any = value.get(kind)
    if kind == "stringValue" and key not in IDENTIFIERS and not VOLATILE.search(content):
        return content
    if kind == "arrayValue":
        return [_value(key, item) for item in content.get("values", ())][:1]
    return content if kind == "boolValue" else kind


def scope_shape(scope: Json) -> Json:
    """Return the instrumentation scope: its name and the schema URL."""
    return {"name": scope.get("scope", {}).get("name"), "schema": scope.get("schemaUrl")}


def span_shape(scope: Json, span: Json, names: dict[str, str]) -> str:
    """Return the shape of a span; `names` are the names of the spans in the same request, by id."""
    parent = span.get("parentSpanId")
    return dumped(
        {
            "scope": scope_shape(scope),
            "name": span["name"],
            "kind": span.get("kind"),
            "status": span.get("status", {}).get("code"),
            "parent": names.get(parent, "remote") if parent else None,
            "attributes": attributes(span),
            "events": sorted({dumped([event["name"], attributes(event)]) for event in span.get("events", ())}),
            "links": len(span.get("links", ())),
        }
    )


def point_shapes(scope: Json, metric: Json) -> Iterator[str]:
    """Yield the shape of each point of a metric."""
    for kind in ("gauge", "sum", "histogram", "exponentialHistogram", "summary"):
        for point in metric.get(kind, {}).get("dataPoints", ()):
            yield dumped(
                {
                    "scope": scope_shape(scope),
                    "metric": metric["name"],
                    "type": kind,
                    "unit": metric.get("unit"),
                    "temporality": metric[kind].get("aggregationTemporality"),
                    "monotonic": metric[kind].get("isMonotonic"),
                    "bounds": point.get("explicitBounds"),
                    "number": next((name for name in ("asInt", "asDouble") if name in point), None),
                    "attributes": attributes(point),
                }
            )


def read(directory: Path) -> Capture:
    """Read a capture. Raises `SystemExit` where the directory holds none."""
    files = sorted(directory.glob("*.jsonl"))
    if not files:
        raise SystemExit(f"{directory} holds no *.jsonl: run the tests with OTLP_CAPTURE_DIR={directory}")
    capture = Capture()
    for file in files:
        for line in file.read_text().splitlines():
            capture.add(json.loads(line))
    return capture


def differences(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return one line for each shape that is in one of both only."""
    old, new = set(before), set(after)
    return [f"- {shape}" for shape in sorted(old - new)] + [f"+ {shape}" for shape in sorted(new - old)]


def compare(before: Capture, after: Capture) -> int:
    """Print both captures side by side; return the number of shapes that are in one only."""
    found = 0
    for kind in ("spans", "points", "resources"):
        old, new = getattr(before, kind), getattr(after, kind)
        lines = differences(old, new)
        print(
            f"{kind}: {old.total()} of {len(old)} shapes before, {new.total()} of {len(new)} after, {len(lines)} differ"
        )
        print("".join(f"  {line}\n" for line in lines), end="")
        found += len(lines)
    both = before.descriptions.keys() & after.descriptions.keys()
    reworded = sorted(name for name in both if before.descriptions[name] != after.descriptions[name])
    print(f"descriptions: {len(both)} metrics in both, {len(reworded)} reworded")
    for name in reworded:
        print(f"  {name}: {before.descriptions[name]!r} → {after.descriptions[name]!r}")
    return found


def main() -> int:
    """Compare the two directories on the command line."""
    parser = argparse.ArgumentParser(description=__doc__ or "", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    return 1 if compare(read(options.before), read(options.after)) else 0


if __name__ == "__main__":
    sys.exit(main())
