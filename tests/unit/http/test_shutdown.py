from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from ai_otel.hooks import guard
from ai_otel.http.shutdown import UVICORN, UvicornShutdown


async def original(*arguments: Any, **options: Any) -> Any:
    """The server's own function."""
    await asyncio.sleep(0)
    return arguments, options


def at_once(done: Callable[[], None]) -> float:
    threading.Thread(target=done).start()
    return 10.0


def never(_: Callable[[], None]) -> float:
    return 0.05


def fail(_: Callable[[], None]) -> NoReturn:
    raise RuntimeError("no thread")


@pytest.mark.parametrize("hand_over", [at_once, never, fail])
def test_the_servers_own_shutdown_is_called_and_its_result_returned(hand_over: Any) -> None:
    started_s = time.monotonic()
    assert asyncio.run(UvicornShutdown(hand_over)._shutdown(original, 1, sockets=None)) == ((1,), {"sockets": None})
    assert time.monotonic() - started_s < 5
    assert guard.errors[f"{UVICORN.target} waits"] == (hand_over is fail)


@pytest.mark.parametrize("hand_over", [at_once, never, fail])
def test_what_the_servers_own_shutdown_raises_is_raised(hand_over: Any) -> None:
    error = OSError("in use")

    async def failing() -> NoReturn:
        raise error

    with pytest.raises(OSError, match="in use") as raised:
        asyncio.run(UvicornShutdown(hand_over)._shutdown(failing))
    assert raised.value is error


def test_a_cancelled_wait_is_the_servers() -> None:
    async def cancelled() -> None:
        waiting = asyncio.create_task(UvicornShutdown(lambda _: 60.0)._shutdown(original))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_a_shutdown_that_is_closed_does_not_wait() -> None:
    async def close() -> None:
        closed = UvicornShutdown(lambda _: pytest.fail("waits"))._shutdown(original)
        closed.send(None)
        closed.close()

    asyncio.run(close())


def test_a_loop_that_is_closed_before_the_export_ends_is_let_be() -> None:
    kept: list[Callable[[], None]] = []
    asyncio.run(UvicornShutdown(lambda done: kept.append(done) or 0.01)._shutdown(original))
    kept[0]()
