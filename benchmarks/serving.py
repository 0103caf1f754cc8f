"""Cost of one request, on its path and in total; of one chunk; and pauses of the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

from measure import Case, Figure, Series, interleaved, on_this_thread
from servers import Floor, Observed, Server

PATH_AIM_US = 5.0
TOTAL_AIM = 1.2
CHUNKS = 100

OF_PATH = "  of the floor's path"
OF_FLOOR = "  of the floor"
OF_FULL_FLOOR = "  of the floor with phase spans"


@contextmanager
def started(*servers: Server) -> Iterator[None]:
    """Start servers, and stop them after the block."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()


def path(server: Server) -> Case:
    """CPU time of the thread that serves: what a request waits for."""

    def case(requests: int) -> float:
        seconds = on_this_thread(lambda: server.serve(requests))
        server.settle()
        return seconds

    return case


def total(server: Server) -> Case:
    """CPU time of the process until all telemetry is exported, to nowhere."""

    def case(requests: int) -> float:
        before = time.process_time()
        server.serve(requests)
        server.settle()
        return time.process_time() - before

    return case


def alone(server: Server) -> Case:
    """The same, with each request emitted alone: the emitting thread wakes for it. Spans are exported together."""

    def case(requests: int) -> float:
        before = time.process_time()
        for _ in range(requests):
            server.serve(1)
            time.sleep(0.03)
        server.settle()
        return time.process_time() - before

    return case


Took = dict[str, Series]


def requests(rounds: int) -> list[Figure]:
    """One request, not streamed, beside nothing and beside the floor."""
    plain, plain_http = Server(), Server(http=True)
    observed, observed_http, bare = Observed(), Observed(http=True), Observed(phases=False)
    with started(plain, plain_http, observed, observed_http, bare):
        floor, full, full_http = Floor(observed), Floor(observed, phases=True), Floor(observed_http, phases=True)
        with started(floor, full, full_http):
            servers = {"plain": plain, "floor": floor, "full": full, "bare": bare, "observed": observed}
            servers |= {"plain_http": plain_http, "full_http": full_http, "observed_http": observed_http}
            way = interleaved({name: path(server) for name, server in servers.items()}, rounds, 100)
            everything = interleaved({name: total(server) for name, server in servers.items()}, rounds, 100)
            seldom = {name: alone(servers[name]) for name in ("plain", "full", "observed")}
            lonely = interleaved(seldom, rounds // 2, 5)
    floor_label = f"floor: 1 span of {floor.attributes} attributes, {floor.points} points"
    return [
        Figure("the server itself, nothing observed", "us", everything["plain"]),
        Figure(floor_label, "us", more(everything, "floor")),
        Figure(f"floor with {floor.phases} phase spans", "us", more(everything, "full")),
        *on_the_way(way),
        *in_all(everything, floor.phases),
        Figure("total, where each request is emitted alone", "us", more(lonely, "observed")),
        Figure("  of the floor with phases, alone too", "x", more(lonely, "observed") / more(lonely, "full")),
    ]


def more(took: Took, name: str, base: str = "plain") -> Series:
    """What this costs more than the server without it."""
    return took[name] - took[base]


def on_the_way(took: Took) -> list[Figure]:
    """What the request waits for."""
    observed = more(took, "observed")
    return [
        Figure("on the request's path", "us", observed, PATH_AIM_US),
        Figure(OF_PATH, "x", observed / more(took, "floor")),
        Figure("on the request's path, with the HTTP middleware", "us", more(took, "observed_http", "plain_http")),
    ]


def in_all(took: Took, phases: int) -> list[Figure]:
    """What the process pays."""
    bare, observed, http = more(took, "bare"), more(took, "observed"), more(took, "observed_http", "plain_http")
    floor, full, full_http = more(took, "floor"), more(took, "full"), more(took, "full_http", "plain_http")
    return [
        Figure("total, without phase spans", "us", bare),
        Figure(OF_FLOOR, "x", bare / floor, TOTAL_AIM),
        Figure(f"total, with {phases} phase spans", "us", observed),
        Figure(OF_FULL_FLOOR, "x", observed / full, TOTAL_AIM),
        Figure("  of the floor without", "x", observed / floor),
        Figure(f"total, with {phases} phase spans and the HTTP middleware", "us", http),
        Figure("  of the floor with the same spans", "x", http / full_http, TOTAL_AIM),
    ]


def chunks(rounds: int) -> list[Figure]:
    """One chunk of a streamed response, and one step of the engine."""
    cases: dict[str, Case] = {}
    servers: list[Server] = []
    for http in (False, True):
        for count in (0, CHUNKS):
            pair = Server(chunks=count, http=http), Observed(chunks=count, http=http)
            servers += pair
            cases |= {f"plain {count} {http}": path(pair[0]), f"observed {count} {http}": path(pair[1])}
            cases["step"] = steps(pair[1])
    with started(*servers):
        took = interleaved(cases, rounds, 20)

    def each(http: bool) -> Series:
        streamed, whole = (more(took, f"observed {count} {http}", f"plain {count} {http}") for count in (CHUNKS, 0))
        return (streamed - whole).each(CHUNKS)

    return [
        Figure("a chunk, through the engine's stream", "us", each(False)),
        Figure("a chunk, through that and the HTTP middleware", "us", each(True)),
        Figure("one step of the engine, for all its requests (stat logger)", "us", took["step"]),
    ]


def steps(server: Observed) -> Case:
    """What ai-otel's stat logger adds to each of the engine's steps."""
    scheduler, iteration = server.vllm.SchedulerStats(), server.vllm.IterationStats()

    def case(count: int) -> float:
        def work() -> None:
            for _ in range(count):
                server.statistics.record(scheduler, iteration)

        return on_this_thread(work)

    return case


def pauses(rounds: int) -> list[Figure]:
    """The longest time that an idle event loop is kept from running while a batch is emitted."""
    server = Observed()
    found: dict[int, list[float]] = {0: [], 10: [], 100: []}
    with started(server):
        server.serve(1)
        server.settle()
        for _ in range(rounds):
            for batch, longest in found.items():
                gc.collect()
                server.serve(batch)
                longest.append(server.loop.run_until_complete(longest_pause(0.03 + batch * 0.0005)) * 1e3)
                server.settle()
    what = {0: "nothing to emit", 10: "10 requests to emit", 100: "100 requests to emit"}
    return [
        Figure(f"the loop's longest pause, {what[batch]}", "ms", Series.of(longest)) for batch, longest in found.items()
    ]


async def longest_pause(seconds: float) -> float:
    """Turn the loop for so long; each turn lets another thread in."""
    last = time.perf_counter()
    end, longest = last + seconds, 0.0
    while last < end:
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest
