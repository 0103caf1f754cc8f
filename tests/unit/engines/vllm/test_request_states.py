"""One request id in flight twice: what belongs to each is distinguished by the task that runs it."""

from __future__ import annotations

import asyncio

from ai_otel.engines.vllm.request_states import InFlight


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
