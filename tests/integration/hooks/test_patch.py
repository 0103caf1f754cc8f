"""A hook of which many threads make use at once."""

from __future__ import annotations

import threading
from typing import Any

from ai_otel.hooks.guard import strict
from ai_otel.hooks.patch import Patcher
from fake_engine import at, install


def test_calls_of_many_threads_are_all_heard() -> None:
    before, after, results = [], [], []

    def ended(state: Any, *_: Any) -> None:
        after.append(state)

    def begun(_: Any, arguments: Any) -> Any:
        before.append(arguments.get("a"))
        return before

    def serve(number: int) -> None:
        results.extend(server.call(number * 1000 + count) for count in range(200))

    with strict(), install() as engine:
        patcher, server = Patcher("fake", lambda: "1.5"), engine.Server(lambda given: given[1])
        patcher.call(at("Server.call"), begun, ended)
        threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        patcher.undo()
    assert len(before) == len(after) == 800
    assert sorted(results) == sorted(number * 1000 + count for number in range(4) for count in range(200))
