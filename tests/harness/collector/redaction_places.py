"""Every place of OTLP where a text can stand: lays a text there, and reads what arrived of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.telemetry.otlp_json import Tree, any_value, attributes, span

ID = "corpus.case"
SIGNALS = {"resourceSpans": "traces", "resourceLogs": "logs", "resourceMetrics": "metrics"}


def _bytes(text: str) -> Tree:
    return {"bytesValue": base64.b64encode(text.encode()).decode()}


def _spans(attributes: Sequence[Tree] = (), *, scope: Tree | None = None, **more: object) -> Tree:
    """The scope and the span of a resource."""
    found = {**span({}), "attributes": list(attributes), **more}
    return {"scopeSpans": [{"scope": {"name": "corpus"}, **(scope or {}), "spans": [found]}]}


def _under(key: str, text: str) -> Tree:
    return _spans(attributes({key: text}))


def _event(**more: object) -> Tree:
    return _spans(events=[{"timeUnixNano": "1", "name": "an event", **more}])


def _link(**more: object) -> Tree:
    return _spans(links=[{"traceId": "0af7651916cd43dd8448eb211c80319d", "spanId": "00f067aa0ba902b8", **more}])


def _log(*, scope: Tree | None = None, **more: object) -> Tree:
    record = {"timeUnixNano": "1", "body": any_value("a log"), **more}
    return {"scopeLogs": [{"scope": {"name": "corpus"}, **(scope or {}), "logRecords": [record]}]}


def _metric(kind: str = "gauge", point: Tree | None = None, *, scope: Tree | None = None, **more: object) -> Tree:
    whole = {"timeUnixNano": "2", **_POINTS[kind], **(point or {})}
    settled = {} if kind in ("gauge", "summary") else {"aggregationTemporality": 2}
    metric = {"name": "corpus.points", kind: {**settled, "dataPoints": [whole]}, **more}
    return {"scopeMetrics": [{"scope": {"name": "corpus"}, **(scope or {}), "metrics": [metric]}]}


_POINTS: Mapping[str, Tree] = {
    "gauge": {"asInt": "1"},
    "sum": {"asInt": "1"},
    "histogram": {"count": "1", "sum": 0.5, "bucketCounts": ["1", "0"], "explicitBounds": [1.0]},
    "exponentialHistogram": {"count": "1", "sum": 0.5, "scale": 0, "positive": {"offset": 0, "bucketCounts": ["1"]}},
    "summary": {"count": "1", "sum": 0.5, "quantileValues": [{"quantile": 0.5, "value": 0.5}]},
}


def _note(text: object) -> Tree:
    return {"attributes": attributes({"app.note": text})}


def _scope(text: str) -> Tree:
    return {"scope": {"name": "corpus", **_note(text)}}


def _exemplar(text: str) -> Tree:
    exemplar = {"timeUnixNano": "2", "asDouble": 0.5, "filteredAttributes": attributes({"app.note": text})}
    return _metric("histogram", {"exemplars": [exemplar]})


Place = Callable[[str], Tree]

TEXTS: Mapping[str, Place] = {
    "span attribute": lambda text: _under("app.note", text),
    "span attribute, item of a list": lambda text: _spans(**_note(["one", text])),
    "span attribute, value of a map": lambda text: _spans(**_note({"n": 1, "x": text})),
    "span attribute, nested": lambda text: _spans(**_note({"a": [{"b": {"c": [text, "two"]}}]})),
    "span attribute, key of a map": lambda text: _spans(**_note({text: 1})),
    "span attribute of a request": lambda text: _under("gen_ai.response.id", text),
    "span name": lambda text: _spans(name=text),
    "status message": lambda text: _spans(status={"code": 2, "message": text}),
    "trace state": lambda text: _spans(traceState=text),
    "event attribute": lambda text: _event(**_note(text)),
    "event attribute, nested": lambda text: _event(**_note([{"a": [text]}])),
    "event name": lambda text: _event(name=text),
    "scope attribute of spans": lambda text: _spans(scope=_scope(text)),
    "scope name": lambda text: _spans(scope={"scope": {"name": text}}),
    "scope version": lambda text: _spans(scope={"scope": {"name": "corpus", "version": text}}),
    "scope schema": lambda text: _spans(scope={"schemaUrl": text}),
    "resource schema": lambda text: {**_spans(), "schemaUrl": text},
    "resource attribute of spans": lambda text: {**_spans(), "resource": _note(text)},
    "log attribute": lambda text: _log(**_note(text)),
    "log attribute, nested": lambda text: _log(**_note({"a": [{"b": text}]})),
    "log body": lambda text: _log(body=any_value(text)),
    "log body, bytes": lambda text: _log(body=_bytes(text)),
    "log body, list": lambda text: _log(body=any_value(["one", text])),
    "log body, map": lambda text: _log(body=any_value({"n": 1, "x": text})),
    "log body, nested": lambda text: _log(body=any_value({"a": [{"b": {"c": [text]}}]})),
    "log body, JSON": lambda text: _log(body=any_value(json.dumps({"n": 1, "x": text}, ensure_ascii=False))),
    "log event name": lambda text: _log(eventName=text),
    "log severity": lambda text: _log(severityText=text),
    "scope attribute of logs": lambda text: _log(scope=_scope(text)),
    "resource attribute of logs": lambda text: {**_log(), "resource": _note(text)},
    "gauge": lambda text: _metric("gauge", _note(text)),
    "sum": lambda text: _metric("sum", _note(text)),
    "histogram": lambda text: _metric("histogram", _note(text)),
    "exponential histogram": lambda text: _metric("exponentialHistogram", _note(text)),
    "summary": lambda text: _metric("summary", _note(text)),
    "exemplar": _exemplar,
    "metric metadata": lambda text: _metric(metadata=attributes({"note": text})),
    "scope attribute of metrics": lambda text: _metric(scope=_scope(text)),
    "resource attribute of metrics": lambda text: {**_metric(), "resource": _note(text)},
}
"""Where any secret must go."""

WORDS: Mapping[str, Place] = {
    "key of a span attribute": lambda text: _spans(attributes=attributes({text: 1})),
    "key of an event attribute": lambda text: _event(attributes=attributes({text: 1})),
    "key of a log attribute": lambda text: _log(attributes=attributes({text: 1})),
    "key of a log body": lambda text: _log(body=any_value({text: 1})),
    "key of a point attribute": lambda text: _metric("sum", {"attributes": attributes({text: 1})}),
    "key of a resource attribute": lambda text: {**_spans(), "resource": {"attributes": attributes({text: 1})}},
    "metric name": lambda text: _metric(name=text),
    "metric description": lambda text: _metric(description=text),
    "metric unit": lambda text: _metric(unit=text),
}
"""A program's words: only addresses, assignments and long numbers must go."""

LIMITS: Mapping[str, Place] = {
    "link attribute": lambda text: _link(**_note(text)),
    "link trace state": lambda text: _link(traceState=text),
    "span attribute, bytes": lambda text: _spans(attributes=[{"key": "app.note", "value": _bytes(text)}]),
    "ignored key": lambda text: _under("k8s.pod.name", text),
}
"""Where the Collector cannot search: docs/collector.md lists them."""


def requests(cases: Sequence[tuple[str, Place, str]], most: int = 500) -> Iterator[tuple[str, Tree]]:
    """Each case's text in its place, in a resource of its own, as OTLP requests of so many."""
    found: dict[str, list[Tree]] = {kind: [] for kind in SIGNALS}
    for name, place, text in cases:
        item = place(text)
        kind = next(kind for kind in SIGNALS if kind.replace("resource", "scope") in item)
        resource = item.get("resource", {"attributes": []})
        own = [*resource["attributes"], *attributes({ID: name})]
        found[kind].append({**item, "resource": {"attributes": own}})
    for kind, items in found.items():
        for start in range(0, len(items), most):
            yield SIGNALS[kind], {kind: items[start : start + most]}


def arrived(exported: Iterable[Tree]) -> dict[str, str]:
    """For each case, all texts that left with it, bytes decoded."""
    found = {}
    for export in exported:
        for item in (item for kind in SIGNALS for item in export.get(kind, [])):
            (name,) = [value for key, value in _texts(item["resource"]) if key == ID]
            found[name] = "\n".join(text for pair in _texts(item) for text in pair)
    return found


def _texts(tree: object) -> Iterator[tuple[str, str]]:
    """Keys and texts, below it."""
    if isinstance(tree, list):
        for item in tree:
            yield from _texts(item)
    elif isinstance(tree, dict):
        if "key" in tree and "stringValue" in tree.get("value", {}):
            yield tree["key"], tree["value"]["stringValue"]
            return
        for key, value in tree.items():
            if key == "bytesValue":
                yield key, base64.b64decode(value).decode()
            elif isinstance(value, str):
                yield key, value
            else:
                yield from _texts(value)


def leaked(secrets: Iterable[str], text: str) -> str:
    """The first secret that is still in the text, plain or in JSON."""
    return next(
        (secret for secret in secrets if secret in text or json.dumps(secret, ensure_ascii=False)[1:-1] in text), ""
    )
