"""
Memory of a server under load whose telemetry has no taker: the endpoint refuses, or accepts and never answers.

After the load a receiver takes the endpoint's place, so that the server's own counts of what it lost arrive.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import otlp
from children import Child, Sink, server, sink
from measure import Figure, Series

RATE = 5000.0
"""Requests per second; a server that cannot serve so many serves what it can."""
TIMEOUT_S = 2
"""Of an export."""
CASES = {"refused": "connection refused", "silent": "accepts, never answers"}


@contextmanager
def refusing() -> Iterator[int]:
    """A port that is taken and refuses connections."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    held: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in held:
            connection.close()


ENDPOINTS = {"refused": refusing, "silent": silent}


@dataclass
class Flood:
    """What became of a server under load."""

    mib: Sequence[float]
    served: int
    rate: float
    emitted: int
    """Requests in its own metrics."""
    dropped: int
    """Requests that it counts as dropped."""
    spans: int
    """Spans that it counts as dropped or not delivered."""

    @property
    def growth_mib(self) -> float:
        """The largest size of the last third beyond that of the second: once queues are full there is none."""
        third = len(self.mib) // 3
        return max(self.mib[-third:]) - max(self.mib[third:-third])

    @property
    def added_mib(self) -> float:
        """What the load added at most."""
        return max(self.mib) - self.mib[0]

    @property
    def unaccounted(self) -> int:
        """Requests that are in neither count."""
        return self.served - self.emitted - self.dropped


def measure(recipe: Path, seconds: float) -> dict[str, Flood]:
    """Load two servers at the same time, each with an endpoint of its own."""
    with ExitStack() as stack:
        dead = {case: stack.enter_context(ExitStack()) for case in CASES}
        ports = {case: dead[case].enter_context(ENDPOINTS[case]()) for case in CASES}
        more = {"OTEL_METRIC_EXPORT_INTERVAL": "5000", "OTEL_EXPORTER_OTLP_TIMEOUT": str(TIMEOUT_S)}
        children = {
            case: stack.enter_context(server("ai-otel", recipe, f"http://127.0.0.1:{ports[case]}", quiet=True, **more))
            for case in CASES
        }
        warm = _load(children, 10.0, 1.0)  # so that everything is imported
        answers = _load(children, RATE, seconds)
        receivers = {}
        for case, child in children.items():
            dead[case].close()
            receivers[case] = stack.enter_context(sink(ports[case]))
            receivers[case].get("keep")
            child.send("flush")
        for child in children.values():
            child.answer()
        return {case: _flood(receivers[case], answers[case], warm[case]["served"]) for case in CASES}


def _load(children: Mapping[str, Child], rate: float, seconds: float) -> dict[str, Any]:
    for child in children.values():
        child.send("flood", rate=rate, seconds=seconds)
    return {case: child.answer() for case, child in children.items()}


def _flood(receiver: Sink, answer: dict[str, Any], before: int) -> Flood:
    seen = otlp.arrived(receiver.get("bodies"), "ai-otel")
    durations = [p["count"] for p in seen.histograms.values() if p["name"] == "gen_ai.server.request.duration"]
    dropped = int(seen.count("ai_otel.record.dropped"))
    signal = {"ai_otel.export.signal": "traces"}
    spans = sum(int(seen.count(name, **signal)) for name in ("ai_otel.export.failed", "ai_otel.export.dropped"))
    return Flood(answer["mib"], before + answer["served"], answer["rate"], sum(durations), dropped, spans)


def figures(floods: dict[str, Flood]) -> list[Figure]:
    """Of each endpoint."""
    found = []
    for case, flood in floods.items():
        for key, what, value, unit in (
            ("rate", "requests served per second", flood.rate, "/s"),
            ("start", "memory before the load", flood.mib[0], "MiB"),
            ("added", "memory that the load added at most", flood.added_mib, "MiB"),
            ("growth", "growth from the second third of the time to the last", flood.growth_mib, "MiB"),
            ("dropped", "requests that it counts as dropped", flood.dropped, ""),
            ("spans", "spans that it counts as dropped or failed", flood.spans, ""),
            ("unaccounted", "requests neither emitted nor counted", flood.unaccounted, ""),
        ):
            found.append(Figure(f"{CASES[case]}: {what}", unit, Series.of([value]), key=f"memory.{key}.{case}"))
    return found
