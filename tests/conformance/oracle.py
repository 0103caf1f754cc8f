"""
Judges telemetry against the contract, which itself is held against the pinned conventions (test_contract.py).

`check_spans`, `check_metrics` and `check_resource` return one readable sentence for each violation. They check only
scopes whose name starts with `ai_otel`: what other instrumentations emit is not judged.

What a finished span cannot show is left out: that the attributes that sampling may need were set when the span started.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neutral import Metric, Point, Span, metrics_of, spans_of

CONTRACT: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "src/ai_otel/schema/contract.json").read_text(encoding="utf-8")
)
ATTRIBUTES: dict[str, Any] = CONTRACT["attributes"]
METRICS: dict[str, Any] = {metric["name"]: metric for metric in CONTRACT["metrics"]}
SPANS: dict[str, Any] = {span["name"] if span["role"] == "phase" else span["role"]: span for span in CONTRACT["spans"]}
SCOPES: dict[str, Any] = {scope["name"]: scope for scope in CONTRACT["scopes"]}
DEPRECATED = frozenset(CONTRACT["deprecated"])
FINISH_REASONS = ATTRIBUTES["ai_otel.finish_reason"]["members"]

# Anything may fail, but not in an unbounded number of ways.
ERROR_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
# A part is never more than the whole.
PARTS = (
    ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.input_tokens"),
    ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.input_tokens"),
    ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.output_tokens"),
)
TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "int": (int,), "double": (float,), "boolean": (bool,)}

Attributes = Mapping[str, Any]


def check_spans(source: Any) -> list[str]:
    """Violations in spans: the SDK's ReadableSpan, or OTLP."""
    own = [span for span in spans_of(source) if span.scope.startswith("ai_otel")]
    tree = {span.span_id: span for span in own}
    return [f"span {span.name!r}: {problem}" for span in own for problem in _span(span, tree)]


def check_metrics(source: Any) -> list[str]:
    """Violations in metrics: the SDK's MetricsData, or OTLP."""
    own = [metric for metric in metrics_of(source) if metric.scope.startswith("ai_otel")]
    return [f"metric {metric.name}: {problem}" for metric in own for problem in _metric(metric)]


def check_resource(attributes: Attributes) -> list[str]:
    """Violations in a resource's attributes. The user's own are legal there, so unknown keys are."""
    known = {key: value for key, value in attributes.items() if key in ATTRIBUTES or key in DEPRECATED}
    return [f"resource: {problem}" for problem in _attributes(known, CONTRACT["resource"], open_list=True)]


# ---------------------------------------------------------------- spans


def _span(span: Span, tree: Mapping[int, Span]) -> Iterator[str]:
    role = _role(span, tree)
    if role is None:
        yield "not a request, an inference or a phase."
        return
    yield from _scope(span.scope, span.schema_url)
    yield from _kind(span, role, tree)
    yield from _attributes(span.attributes, SPANS[role]["attributes"])
    if role in ("request", "inference"):
        yield from _name(span)
        # What has the wrong type was already found, and would only confuse these.
        sound = {key: value for key, value in span.attributes.items() if not list(_value(key, value))}
        yield from _ending(sound, error=span.error)
        yield from _conditions(sound)


def _role(span: Span, tree: Mapping[int, Span]) -> str | None:
    if span.name in SPANS and not _about_inference(span):
        return span.name
    parent = tree.get(span.parent_id) if span.parent_id else None
    if parent is not None and _about_inference(span) and _about_inference(parent):
        return "inference"
    return "request" if _about_inference(span) or span.kind == "server" else None


def _about_inference(span: Span) -> bool:
    return any(key.startswith("gen_ai.") for key in span.attributes) or "ai_otel.outcome" in span.attributes


def _kind(span: Span, role: str, tree: Mapping[int, Span]) -> Iterator[str]:
    if role != "request":
        if span.kind != "internal":
            yield f"its kind is {span.kind}, not internal."
        if span.parent_id is None:
            yield "it has no parent."
        return
    remote = False if span.parent_id in tree else span.remote
    if span.parent_id is not None and remote is None:
        legal, why = {"server", "internal"}, "for any parent"
    elif span.parent_id is None or remote:
        legal, why = {"server"}, "because its parent is remote or absent"
    else:
        legal, why = {"internal"}, "because its parent is local"
    if span.kind not in legal:
        yield f"its kind is {span.kind}, not {' or '.join(sorted(legal))}, {why}."


def _name(span: Span) -> Iterator[str]:
    parts = (span.attributes.get("gen_ai.operation.name"), span.attributes.get("gen_ai.request.model"))
    expected = " ".join(str(part) for part in parts if part)
    if span.name != expected:
        yield f"its name should be {expected!r}."


def _ending(attributes: Attributes, *, error: bool) -> Iterator[str]:
    """
    Outcome, error type and status say the same.

    What the client did wrong (4xx) or chose to stop is no error of this server: error.type without the status Error.
    """
    outcome, failure = attributes.get("ai_otel.outcome"), attributes.get("error.type")
    excused = 400 <= attributes.get("http.response.status_code", 0) < 500
    if outcome in ("failed", "rejected") and not failure:
        yield f"it is {outcome}, so it needs error.type."
    if (outcome == "failed" or (outcome == "rejected" and not excused)) and not error:
        yield f"it is {outcome}, so it needs the status Error."
    if outcome == "finished" and (failure or error):
        yield "it is finished, and still has error.type or the status Error."
    if error and not failure:
        yield "it has the status Error, but no error.type."


def _conditions(attributes: Attributes) -> Iterator[str]:
    if "server.port" in attributes and "server.address" not in attributes:
        yield "server.port without server.address."
    if attributes.get("gen_ai.request.stream") is False:
        yield "gen_ai.request.stream is true or absent."
    if "gen_ai.response.time_to_first_chunk" in attributes and "gen_ai.request.stream" not in attributes:
        yield "gen_ai.response.time_to_first_chunk is for streams."
    for key in ("gen_ai.request.choice.count", "ai_otel.request.inference.count"):
        if attributes.get(key) == 1:
            yield f"{key} is absent where it is 1."
    for part, whole in PARTS:
        if part in attributes and whole in attributes and attributes[part] > attributes[whole]:
            yield f"{part} is more than {whole}."


# ---------------------------------------------------------------- metrics


def _metric(metric: Metric) -> Iterator[str]:
    expected = METRICS.get(metric.name)
    if metric.name in DEPRECATED:
        yield "the conventions deprecated this name."
    if metric.name.startswith("gen_ai.client."):
        yield "a server must not emit the caller's metrics."
    if expected is None:
        yield "the contract has no such metric."
        return
    yield from _scope(metric.scope, metric.schema_url, expected["scope"])
    if metric.unit != expected["unit"]:
        yield f"its unit is {metric.unit!r}, not {expected['unit']!r}."
    if metric.instrument != expected["instrument"]:
        yield f"its instrument is {metric.instrument}, not {expected['instrument']}."
    for point in metric.points:
        yield from _point(point, expected)


def _point(point: Point, expected: Mapping[str, Any]) -> Iterator[str]:
    if point.type is not None and point.type != expected["value"]:
        yield f"its value is {point.type}, not {expected['value']}."
    if point.bounds is not None and list(point.bounds) != expected["buckets"]:
        yield f"its buckets are {list(point.bounds)}, not {expected['buckets']}."
    if expected["unit"] == "1" and not 0 <= point.value <= 1:
        yield f"its value is {point.value}, not between 0 and 1."
    if expected["instrument"] == "counter" and point.value < 0:
        yield "a counter is never negative."
    yield from _attributes(point.attributes, expected["attributes"])
    if "server.port" in point.attributes and "server.address" not in point.attributes:
        yield "server.port without server.address."


def _scope(name: str, schema_url: str, expected: str | None = None) -> Iterator[str]:
    """A span may be in any scope of ai-otel; a metric is in the one of its namespace."""
    if name not in SCOPES or (expected is not None and name != expected):
        yield f"its scope is {name}, not {expected or ' or '.join(SCOPES)}."
    elif schema_url != (SCOPES[name]["schema_url"] or ""):
        yield f"its scope's schema URL is {schema_url!r}, not {SCOPES[name]['schema_url'] or ''!r}."


# ---------------------------------------------------------------- attributes


def _attributes(attributes: Attributes, legal: Mapping[str, Any], *, open_list: bool = False) -> Iterator[str]:
    for key, use in legal.items():
        if use["level"] == "required" and key not in attributes:
            yield f"the required {key} is absent."
    for key, value in attributes.items():
        if key in DEPRECATED:
            yield f"the conventions deprecated {key}."
        elif key not in legal and not open_list:
            yield f"{key} does not belong here."
        else:
            yield from _value(key, value)


def _value(key: str, value: Any) -> Iterator[str]:
    if key not in ATTRIBUTES:
        return
    kind = ATTRIBUTES[key]["type"]
    if not _has_type(value, kind):
        yield f"{key} is {value!r}, which is no {kind}."
        return
    illegal = list(_illegal(key, value))
    if illegal:
        yield f"{key}: {', '.join(map(repr, illegal))} is not a legal value."


def _has_type(value: Any, kind: str) -> bool:
    if kind.endswith("[]"):
        return isinstance(value, (tuple, list)) and all(_has_type(item, kind[:-2]) for item in value)
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])


def _illegal(key: str, value: Any) -> Iterable[Any]:
    if key == "error.type":
        return [] if ERROR_TYPE.fullmatch(value) else [value]
    if key == "gen_ai.response.finish_reasons":
        return [reason for reason in value if reason not in FINISH_REASONS]
    members = ATTRIBUTES[key].get("members")
    return [value] if members and value not in members else []
