"""`instrument()` from many threads, and whose providers are used, in interpreters of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ai_otel
from ai_otel import start
from isolated import python


@pytest.fixture(autouse=True)
def off_again() -> Iterator[None]:
    yield
    start.uninstrument()


def test_many_threads_make_one_handle() -> None:
    handles, ready = [], threading.Barrier(8)

    def begin() -> None:
        ready.wait()
        handles.append(ai_otel.instrument())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(handle) for handle in handles}) == 1


# ---------------------------------------------------------------- whose providers

WHOSE = """
import json, sys
import fake_engine
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
import ai_otel
from ai_otel import start
what = sys.argv[1]
tracers, meters = TracerProvider(), MeterProvider()
if what in ("both", "before", "tracer"):
    trace.set_tracer_provider(tracers)
if what in ("both", "before"):
    metrics.set_meter_provider(meters)
passed = {"tracer_provider": tracers, "meter_provider": meters} if what == "passed" else {}
handle = ai_otel.instrument(**passed)
if what == "between":  # after us, before the engine
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
with fake_engine.install() as engine:
    handle.watch({"fake": fake_engine.ENGINE})
    if what == "after":  # by the engine itself
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(meters)
    import asyncio
    asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
    handle.recorder.flush()
found = handle.providers
print(json.dumps({
    "origin": found.origin,
    "own": [found.own_traces, found.own_metrics],
    "theirs": [found.tracer_provider is tracers, found.meter_provider is meters],
    "global": [
        trace.get_tracer_provider() is found.tracer_provider,
        metrics.get_meter_provider() is found.meter_provider,
    ],
    "name": dict(found.tracer_provider.resource.attributes)["service.name"],
}))
"""

NO_EXPORT = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing", {"origin": "own", "own": [True, True], "theirs": [False, False], "name": "fake"}),
        ("passed", {"origin": "passed", "own": [False, False], "theirs": [True, True]}),
        ("both", {"origin": "global", "own": [False, False], "theirs": [True, True], "global": [True, True]}),
        ("between", {"origin": "global", "own": [False, False], "theirs": [True, True]}),
        # What an engine sets up for itself, it set up for itself.
        ("after", {"origin": "own", "own": [True, True], "theirs": [False, False], "global": [False, False]}),
        # A user who only traces still gets metrics, from us.
        ("tracer", {"origin": "global", "own": [False, True], "theirs": [True, False], "global": [True, False]}),
    ],
)
def test_whose_providers_are_used(what: str, expected: dict[str, Any]) -> None:
    found = json.loads(python(WHOSE, what, **NO_EXPORT))
    assert {name: found[name] for name in expected} == expected


def test_global_providers_are_never_set_by_us() -> None:
    found = json.loads(python(WHOSE, "nothing", **NO_EXPORT))
    assert found["global"] == [False, False]


def test_exit_hands_over_before_the_users_providers_end() -> None:
    """A user's provider that is set up after us would end before us: exit runs backwards."""
    code = """
import fake_engine
import ai_otel
handle = ai_otel.instrument(flush_interval=60)
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
class Print(SpanExporter):
    def export(self, spans):
        print(*(span.name for span in spans))
        return SpanExportResult.SUCCESS
    def shutdown(self):
        print("end of theirs")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Print()))
trace.set_tracer_provider(provider)
import asyncio
with fake_engine.install() as engine:
    handle.watch({"fake": fake_engine.ENGINE})
    asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
"""
    assert python(code, **NO_EXPORT) == "chat tiny\nend of theirs\n"
