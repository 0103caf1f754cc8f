"""
CPU time of one request in total: served, recorded, serialised, compressed as configured, sent and acknowledged.

Requests arrive at `RATE`, and metrics are exported every `INTERVAL_S`. A round of each server is a window of requests
with one export at its end, and then a single request with one export: the difference is what requests cost, and the
rest is what an export of metrics costs, of which each request bears its part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import otlp
from children import Child, Sink
from measure import Figure, Series

RATE = 500.0
"""Requests per second."""
INTERVAL_S = 5.0
"""Between two exports of metrics, or two scrapes."""
CHECKED = 20
"""Requests whose telemetry is decoded."""

BASE = {"ai-otel": "plain", "ai-otel-bare": "plain-bare"}
"""A server -> the one whose telemetry is the same; the others are compared with `plain` too."""

NAMES = {
    "plain": "plain SDK by hand: {spans} spans, {points} points",
    "plain-bare": "plain SDK by hand: 1 span, {points} points",
    "ai-otel": "ai-otel",
    "ai-otel-bare": "ai-otel, `AI_OTEL_PHASES=false`",
    "prometheus": "`prometheus_client`, the same series, no spans",
    "asgi": "OpenTelemetry's ASGI instrumentation (HTTP only)",
}


def derive(child: Child, sink: Sink) -> dict[str, Any]:
    """What one request makes in this version of ai-otel, from the bytes that it sends."""
    sink.get("keep")
    child.ask("serve", count=CHECKED, rate=RATE)
    return otlp.recipe(otlp.arrived(sink.get("bodies"), "ai-otel"), CHECKED)


def verify(servers: Mapping[str, Child], sink: Sink, recipe: Mapping[str, Any]) -> list[str]:
    """Serve with each server and decode what it sends; return those whose telemetry is not as it must be."""
    full, wrong = len(recipe["spans"]), []
    series = len(recipe["points"])
    expected = {"plain": full, "ai-otel": full, "plain-bare": 1, "ai-otel-bare": 1}
    shapes = {}
    for name, child in servers.items():
        before = _points_of(child, sink, name)[1]
        seen, after = _points_of(child, sink, name, CHECKED)
        shapes[name] = otlp.shape(seen)[0]
        if name in expected:
            right = len(seen.spans) == CHECKED * expected[name] and len(seen.histograms) >= series
            right = right and after - before == CHECKED * sum(int(point["times"]) for point in recipe["points"])
        elif name == "asgi":
            right = sum(span["kind"] == 2 for span in seen.spans) == CHECKED and bool(seen.histograms)
        elif name == "prometheus":
            right = child.ask("scraped").count("_bucket{") > series
        else:
            right = not seen.spans and not seen.histograms
        wrong += [] if right else [name]
    return wrong + [name for name, base in BASE.items() if shapes[name] != shapes[base]]


def _points_of(child: Child, sink: Sink, name: str, requests: int = 0) -> tuple[otlp.Arrived, int]:
    sink.get("keep")
    child.ask("serve", count=requests, rate=RATE)
    seen = otlp.arrived(sink.get("bodies"), name)
    return seen, sum(point["count"] for point in seen.histograms.values())


def measure(servers: Mapping[str, Child], sink: Sink, rounds: int, window_s: float) -> dict[str, dict[str, Series]]:
    """Microseconds and bytes of each server, round by round, after one round to warm up."""
    count = int(RATE * window_s)
    names = list(servers)
    took: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            child = servers[name]
            before = sink.bytes_of(name)
            window = child.ask("serve", count=count, rate=RATE)
            middle = sink.bytes_of(name)
            single = child.ask("serve", count=1, rate=RATE)
            if turn:
                took[name].append(apart(window, single, count) | {"bytes": (middle - before) / count})
    return {name: {key: Series.of([one[key] for one in all_]) for key in all_[0]} for name, all_ in took.items()}


def apart(window: Mapping[str, float], single: Mapping[str, float], count: int) -> dict[str, float]:
    """From the seconds of a window of requests and of one: microseconds of a request, and of an export of metrics."""
    request, serving = ((window[key] - single[key]) / (count - 1) * 1e6 for key in ("process", "thread"))
    export = max(0.0, single["process"] * 1e6 - request)
    return {"total": request + export / (RATE * INTERVAL_S), "thread": serving, "export": export}


def figures(took: Mapping[str, Mapping[str, Series]], recipe: Mapping[str, Any]) -> list[Figure]:
    """What each adds to the server in which nothing is observed."""
    nothing = took["nothing"]
    text = {"spans": len(recipe["spans"]), "points": sum(int(point["times"]) for point in recipe["points"])}
    added = {name: took[name]["total"] - nothing["total"] for name in NAMES}
    emitting = {name: added[name] - (took[name]["thread"] - nothing["thread"]) for name in BASE}
    found = [Figure("the server itself, nothing observed", "us", nothing["total"], key="total.nothing")]
    for name, title in NAMES.items():
        base = added[BASE.get(name, "plain-bare" if name == "plain-bare" else "plain")]
        found.append(Figure(title.format(**text), "us", added[name], key=f"total.{name}", ratio=added[name] / base))
    for name, base_name in BASE.items():
        ratio = emitting[name] / added[base_name]
        found.append(
            Figure(f"emission alone: {NAMES[name]}", "us", emitting[name], key=f"emission.{name}", ratio=ratio)
        )
    for name in ("plain", "ai-otel", "prometheus"):
        export = took[name]["export"].each(1000)
        ratio = export / took["plain"]["export"].each(1000)
        title = NAMES[name].partition(":")[0].partition(",")[0]
        found.append(
            Figure(f"one export of metrics, or scrape: {title}", "ms", export, key=f"export.{name}", ratio=ratio)
        )
    for name in ("plain", "ai-otel"):
        sent, base = took[name]["bytes"], took["plain"]["bytes"]
        found.append(
            Figure(f"bytes sent: {NAMES[name].partition(':')[0]}", "B", sent, key=f"bytes.{name}", ratio=sent / base)
        )
    return found
