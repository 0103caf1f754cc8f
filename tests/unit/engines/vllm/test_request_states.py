"""One request id in flight twice: what belongs to each is distinguished by the task that runs it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engines.vllm.request_states import InFlight, RequestStates
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import RequestRecord
from ai_otel.recorder import CURRENT


async def call(entries: InFlight[str], owner: str, ids: list[str]) -> dict[str, str | None]:
    """Add an entry for each id, then read them in tasks of their own, as a server that merges streams does."""
    for request_id in ids:
        entries.add(request_id, owner, f"{owner}'s {request_id}")
    await asyncio.sleep(0.01)  # the other call adds its own meanwhile

    async def read(request_id: str) -> str | None:
        await asyncio.sleep(0)
        return entries.get(request_id)

    found = await asyncio.gather(*(read(request_id) for request_id in ids))
    await asyncio.sleep(0.01)
    for request_id in ids:
        entries.remove(request_id, owner)
    return dict(zip(ids, found, strict=True))


def test_calls_with_the_same_ids_find_their_own() -> None:
    entries: InFlight[str] = InFlight()

    async def main() -> list[dict[str, str | None]]:
        return await asyncio.gather(*(call(entries, owner, ["x-0", "x-1"]) for owner in ("a", "b")))

    assert asyncio.run(main()) == [{"x-0": f"{o}'s x-0", "x-1": f"{o}'s x-1"} for o in ("a", "b")]
    assert not entries


def test_http_requests_with_the_same_ids_find_their_own() -> None:
    """The record of the HTTP request is the owner, also in the tasks that it starts."""
    entries: InFlight[str] = InFlight()

    async def request(name: str) -> list[str | None]:
        record = RequestRecord()
        CURRENT.set(record)
        for request_id in ("x-0", "x-1"):
            entries.add(request_id, id(record), f"{name}'s {request_id}", alone=False)
        await asyncio.sleep(0.01)  # the other request adds its own meanwhile

        async def read(request_id: str) -> str | None:
            return entries.get(request_id)

        return await asyncio.gather(*(read(request_id) for request_id in ("x-0", "x-1")))

    async def main() -> list[list[str | None]]:
        return await asyncio.gather(request("a"), request("b"))

    assert asyncio.run(main()) == [[f"{name}'s x-0", f"{name}'s x-1"] for name in ("a", "b")]


def test_the_end_of_one_leaves_the_other() -> None:
    entries: InFlight[str] = InFlight()
    entries.add("x", 1, "first")
    entries.add("x", 2, "second")
    entries.remove("x", 1)
    entries.remove("x", 1)
    assert entries.get("x") == "second"


def test_an_unknown_task_finds_nothing_rather_than_anothers() -> None:
    entries: InFlight[str] = InFlight()
    entries.add("x", 1, "first")
    entries.add("x", 2, "second")
    entries.add("y", 3, "other")
    assert entries.get("x") is None
    assert entries.get("y") == "other"


# ---------------------------------------------------------------- the states of a request


def add(states: RequestStates, processor: Any, request: Any, parent: Any = None, error: Any = None) -> None:
    """As the hook on `OutputProcessor.add_request` calls it."""
    states.added(processor, Arguments({"request": 1, "parent_req": 3}, (processor, request, "p", parent), {}), error)


@pytest.mark.fault(
    "engines",
    "an input is streamed to vLLM in pieces, each added under the same id",
    "its state is collected once",
)
def test_a_state_is_collected_once() -> None:
    states, request = RequestStates(), SimpleNamespace(request_id="inside", external_req_id="r")
    processor = SimpleNamespace(request_states={"inside": object()})
    running: Any = SimpleNamespace(states=[])
    states.add("r", 1, running)
    for _ in range(3):
        add(states, processor, request)
    assert running.states == [processor.request_states["inside"]]


@pytest.mark.parametrize("holder", ["request", "parent", "an old request"])
def test_a_state_is_found_by_the_id_that_the_caller_gave(holder: str) -> None:
    states, running = RequestStates(), SimpleNamespace(states=[])
    request, parent = SimpleNamespace(request_id="inside"), None
    if holder == "request":
        request.external_req_id = "r"
    elif holder == "parent":
        request.external_req_id, parent = "0_r", SimpleNamespace(request_id="9", external_req_id="r")
    else:
        request.request_id = "r"
    processor = SimpleNamespace(request_states={request.request_id: object()})
    states.add("r", 1, running)
    add(states, processor, request, parent)
    assert running.states == list(processor.request_states.values())


def test_without_a_state_or_a_request_nothing_is_collected() -> None:
    states, running = RequestStates(), SimpleNamespace(states=[])
    request = SimpleNamespace(request_id="inside", external_req_id="r")
    processor = SimpleNamespace(request_states={"inside": object()})
    add(states, processor, request)
    states.add("r", 1, running)
    add(states, processor, request, error=ValueError())
    add(states, SimpleNamespace(request_states={}), request)
    assert running.states == []
