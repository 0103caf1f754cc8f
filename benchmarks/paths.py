"""CPU time on the request's path: of the thread that serves, for one request, one chunk and one step of the engine."""

from __future__ import annotations

from collections.abc import Mapping

from children import Child
from measure import Figure, Series

CHUNKS = 100
REQUESTS = {0: 100, CHUNKS: 20}
"""In one measurement, by the chunks of a response."""
MEASURED = ("nothing", "plain", "ai-otel")

Took = Mapping[tuple[str, int, bool], Series]


def measure(servers: Mapping[str, Child], rounds: int) -> tuple[Took, Series]:
    """Microseconds of a request, by server, chunks and whether it comes through HTTP; and of a step of the engine."""
    cases = [(n, c, h) for c in REQUESTS for h in (False, True) for n in MEASURED if not (c and n == "plain")]
    took: dict[tuple[str, int, bool], list[float]] = {case: [] for case in cases}
    steps = []
    for turn in range(rounds + 1):
        for name, chunks, http in cases:
            seconds = servers[name].ask("path", count=REQUESTS[chunks], chunks=chunks, http=http)
            if turn:
                took[name, chunks, http].append(seconds / REQUESTS[chunks] * 1e6)
        step = servers["ai-otel"].ask("step", count=100) / 100 * 1e6
        steps += [step] if turn else []
    return {case: Series.of(values) for case, values in took.items()}, Series.of(steps)


def figures(took: Took, step: Series) -> list[Figure]:
    """What is more than in the server in which nothing is observed."""

    def more(name: str, chunks: int, http: bool) -> Series:
        return took[name, chunks, http] - took["nothing", chunks, http]

    def chunk(http: bool) -> Series:
        return (more("ai-otel", CHUNKS, http) - more("ai-otel", 0, http)).each(CHUNKS)

    requests = [
        Figure(
            f"a request, {'with the HTTP middleware' if http else 'through the engine alone'}: {title}",
            "us",
            more(name, 0, http),
            key=f"path.{'http' if http else 'engine'}.{name}",
            ratio=more(name, 0, http) / more("plain", 0, http),
        )
        for http in (False, True)
        for name, title in (("plain", "plain SDK by hand"), ("ai-otel", "ai-otel"))
    ]
    return [
        *requests,
        Figure("a chunk, through the engine's stream", "us", chunk(False), key="chunk.engine"),
        Figure("a chunk, through that and the HTTP middleware", "us", chunk(True), key="chunk.http"),
        Figure("a step of the engine, for all its requests (stat logger)", "us", step, key="step"),
    ]
