"""Values and attributes as OTLP/JSON has them, both ways, and sending them to a Collector."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

Tree = dict[str, Any]


class Missing:
    """No value at all; a text may be empty."""

    def __repr__(self) -> str:
        return "(nothing)"


MISSING = Missing()


def any_value(value: Any) -> Tree:
    """A value as OTLP/JSON has it."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    return {"stringValue": value}


def attributes(values: Tree) -> list[Tree]:
    """Attributes as OTLP/JSON has them."""
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def plain(value: Tree) -> Any:
    """A value of OTLP/JSON as Python has it."""
    if not value:
        return MISSING
    ((kind, inner),) = value.items()
    if kind == "arrayValue":
        return [plain(item) for item in inner.get("values", [])]
    if kind == "kvlistValue":
        return {item["key"]: plain(item["value"]) for item in inner.get("values", [])}
    return int(inner) if kind == "intValue" else float(inner) if kind == "doubleValue" else inner


def plain_attributes(holder: Tree) -> Tree:
    """All attributes of a span, an event, a log, a point, a resource or a scope."""
    return {item["key"]: plain(item["value"]) for item in holder.get("attributes", [])}


def span(values: Tree, **more: Any) -> Tree:
    """A span with these attributes."""
    ids = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "00f067aa0ba902b7"}
    times = {"startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    return {**ids, "name": "chat", "kind": 2, **times, "attributes": attributes(values), **more}


def send(port: int, signal: str, request: Tree) -> None:
    """One request over OTLP/HTTP."""
    sent = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{signal}",
        json.dumps(request).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(sent, timeout=30) as answer:
        assert answer.status == 200
