"""Carriers join the work of other threads and processes."""

from __future__ import annotations

import contextvars
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import ai_otel
from ai_otel.hooks import guard
from ai_otel.testing import captured

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def test_work_of_a_thread_belongs_to_the_call_whose_carrier_it_attaches() -> None:
    with captured() as telemetry:

        def compute(carrier: ai_otel.Carrier) -> None:
            with ai_otel.attach(carrier), ai_otel.inference("embeddings"):
                pass

        with ai_otel.inference("chat") as request, ThreadPoolExecutor(1) as pool:
            pool.submit(compute, request.carry()).result()
        tree = telemetry.tree().splitlines()
    assert [line.split(" ", 1)[0] for line in tree] == ["chat", "", ""]
    assert len(tree) == 3


@pytest.mark.fault(
    "requests", "a carrier is attached after its call has ended", "the work is a call of its own in the same trace"
)
def test_a_carrier_outlives_its_call_as_trace_context() -> None:
    with captured() as telemetry:
        with ai_otel.inference("chat", headers=PARENT) as request:
            carrier = request.carry()
        with ai_otel.attach(carrier), ai_otel.inference("embeddings"):
            pass
        traces = {span.context.trace_id for span in telemetry.spans}
    assert traces == {0x0AF7651916CD43DD8448EB211C80319C}


def test_a_pickled_carrier_is_the_callers_trace_context() -> None:
    with captured() as telemetry:
        with ai_otel.inference("chat", headers=PARENT) as request:
            carrier = pickle.loads(pickle.dumps(request.carry()))
        with ai_otel.attach(carrier), ai_otel.inference("embeddings"):
            pass
        parents = {span.parent.span_id for span in telemetry.spans if span.parent is not None}
    assert dict(carrier.headers) == PARENT
    assert parents == {0xB7AD6B7169203331}


@pytest.mark.fault(
    "requests",
    "a generator attaches a carrier, and each of its items is taken in another context, as frameworks do with threads",
    "the items arrive; nothing is raised where the block ends",
)
def test_a_block_may_be_left_in_another_context() -> None:
    with captured() as telemetry:

        def compute(carrier: ai_otel.Carrier) -> Iterator[int]:
            with ai_otel.attach(carrier):
                with ai_otel.inference("embeddings"):
                    yield 1
                yield 2

        with ai_otel.inference("chat") as request:
            items = compute(request.carry())
            taken = [contextvars.copy_context().run(next, items, None) for _ in range(3)]
        tree = telemetry.tree().splitlines()
    assert taken == [1, 2, None]
    assert len(tree) == 3


@pytest.mark.fault(
    "requests", "the application attaches what is no carrier", "it is logged once, and the block runs as without it"
)
def test_what_is_no_carrier_is_not_attached() -> None:
    before = guard.errors["manual"]
    with ai_otel.attach(None):  # type: ignore[arg-type]
        ran = True
    assert ran
    assert guard.errors["manual"] == before + 1
