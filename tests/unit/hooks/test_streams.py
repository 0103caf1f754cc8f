from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from types import AsyncGeneratorType, GeneratorType
from typing import Any

import pytest

from ai_otel.hooks.guard import Guard, strict
from ai_otel.hooks.streams import async_observed, observed


@pytest.fixture(autouse=True)
def failures_come_through() -> Iterator[None]:
    with strict():
        yield


class Log:
    """A watch that remembers; `every_item=False` is one that only needs the last."""

    def __init__(self, *, every_item: bool = True) -> None:
        self.items: list[Any] = []
        self.ends: list[tuple[BaseException | None, bool]] = []
        self.last: Any = None
        self.item = self.items.append if every_item else None

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        self.ends.append((error, closed))


class Broke(Exception):
    pass


class Counting:
    """An iterator that is no generator, in both ways; `limit` items."""

    label = "counting"

    def __init__(self, limit: int = 3, error: BaseException | None = None) -> None:
        self.count, self.limit, self.error = 0, limit, error

    def __iter__(self) -> Counting:
        return self

    def __next__(self) -> int:
        if self.count >= self.limit:
            raise self.error or StopIteration
        self.count += 1
        return self.count

    def __aiter__(self) -> Counting:
        return self

    async def __anext__(self) -> int:
        if self.count >= self.limit:
            raise self.error or StopAsyncIteration
        self.count += 1
        return self.count


def counting(limit: int = 3, error: BaseException | None = None) -> Generator[int, Any, str]:
    yield from range(1, limit + 1)
    if error is not None:
        raise error
    return "returned"


async def async_counting(limit: int = 3, error: BaseException | None = None) -> AsyncGenerator[int, Any]:
    for number in range(1, limit + 1):
        yield number
    if error is not None:
        raise error


def echo() -> Generator[Any, Any, None]:
    """Yields what it is sent, and what is thrown into it."""
    got: Any = "first"
    while True:
        try:
            got = yield got
        except Broke as error:
            got = error


async def async_echo() -> AsyncGenerator[Any, Any]:
    got: Any = "first"
    while True:
        try:
            got = yield got
        except Broke as error:
            got = error


def proxy(stream: Any, log: Log) -> Any:
    return observed(stream, log, Guard("stream"))


def async_proxy(stream: Any, log: Log) -> Any:
    return async_observed(stream, log, Guard("stream"))


SYNC = [counting, Counting]
ASYNC = [async_counting, Counting]


# ---------------------------------------------------------------- iterators


@pytest.mark.parametrize("make", SYNC)
def test_the_items_come_through_and_the_end_is_reported_once(make: Any) -> None:
    log = Log()
    stream = proxy(make(), log)
    assert list(stream) == [1, 2, 3]
    assert list(stream) == []
    assert log.items == [1, 2, 3]
    assert log.last == 3
    assert log.ends == [(None, False)]


def test_the_very_objects_are_delivered_and_the_last_is_kept() -> None:
    log, items = Log(every_item=False), [object(), object()]
    delivered = list(proxy(iter(items), log))
    assert all(given is got for given, got in zip(items, delivered, strict=True))
    assert log.last is items[-1]


@pytest.mark.parametrize("make", SYNC)
def test_the_same_exception_comes_out_of_an_iterator(make: Any) -> None:
    log, error = Log(), Broke()
    stream = proxy(make(1, error), log)
    assert next(stream) == 1
    with pytest.raises(Broke) as raised:
        next(stream)
    assert raised.value is error
    assert log.ends == [(error, False)]


def test_a_generators_return_value_comes_through() -> None:
    def outer() -> Generator[int, None, str]:
        return (yield from proxy(counting(), Log()))

    stream = outer()
    assert [next(stream), next(stream), next(stream)] == [1, 2, 3]
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "returned"


def test_send_and_throw_are_forwarded() -> None:
    log, error = Log(), Broke()
    stream = proxy(echo(), log)
    assert next(stream) == "first"
    assert stream.send("sent") == "sent"
    assert stream.throw(error) is error
    assert log.items == ["first", "sent", error]
    assert log.ends == []
    unknown = KeyError()
    with pytest.raises(KeyError) as raised:
        stream.throw(unknown)
    assert raised.value is unknown
    assert log.ends == [(unknown, False)]


def test_close_is_forwarded_and_reported() -> None:
    log, inner = Log(), echo()
    stream = proxy(inner, log)
    next(stream)
    assert stream.close() is None
    assert inner.gi_frame is None
    stream.close()
    assert log.ends == [(None, True)]


def test_a_close_that_raises_is_reported_and_raises() -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise Broke

    log = Log()
    stream = proxy(stubborn(), log)
    next(stream)
    with pytest.raises(Broke):
        stream.close()
    assert log.ends == [(None, True)]


@pytest.mark.parametrize("make", SYNC)
@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_is_dropped_has_ended(make: Any, begun: bool) -> None:
    log = Log()
    stream = proxy(make(), log)
    if begun:
        next(stream)
    del stream
    gc.collect()
    assert log.ends == [(None, True)]


def test_a_stream_that_is_dropped_in_a_cycle_has_ended() -> None:
    log = Log()
    holder = [proxy(counting(), log)]
    holder.append(holder)
    del holder
    gc.collect()
    assert log.ends == [(None, True)]


def test_breaking_out_of_the_loop_drops_the_stream() -> None:
    log = Log()

    def consume() -> int:
        for item in proxy(counting(), log):
            return item
        return 0

    assert consume() == 1
    gc.collect()
    assert log.ends == [(None, True)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_is_no_exception_comes_through_too(error: BaseException) -> None:
    log = Log()
    stream = proxy(Counting(0, error), log)
    with pytest.raises(type(error)) as raised:
        next(stream)
    assert raised.value is error
    assert log.ends == [(error, False)]


def test_a_watched_stream_is_what_it_was() -> None:
    generator, other = counting(), Counting()
    stream, plain = proxy(generator, Log()), proxy(other, Log())
    assert isinstance(stream, GeneratorType)
    assert inspect.isgenerator(stream)
    assert isinstance(stream, Iterator)
    assert stream.gi_code is generator.gi_code
    assert repr(stream) == repr(generator)
    assert iter(stream) is stream
    assert isinstance(plain, Counting)
    assert plain.label == "counting"
    plain.label = "another"
    assert other.label == "another"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stream.nothing
    assert weakref.ref(stream)() is stream
    stream.close()


# ---------------------------------------------------------------- asynchronous iterators


@pytest.mark.parametrize("make", ASYNC)
def test_asynchronous_items_come_through_and_the_end_is_reported_once(make: Any) -> None:
    log = Log()

    async def consume() -> tuple[list[int], list[int]]:
        stream = async_proxy(make(), log)
        return [item async for item in stream], [item async for item in stream]

    assert asyncio.run(consume()) == ([1, 2, 3], [])
    assert log.items == [1, 2, 3]
    assert log.ends == [(None, False)]


@pytest.mark.parametrize("make", ASYNC)
def test_the_same_exception_comes_out_of_an_asynchronous_iterator(make: Any) -> None:
    log, error = Log(), Broke()

    async def consume() -> None:
        stream = async_proxy(make(1, error), log)
        assert await anext(stream) == 1
        with pytest.raises(Broke) as raised:
            await anext(stream)
        assert raised.value is error

    asyncio.run(consume())
    assert log.ends == [(error, False)]


def test_asend_and_athrow_are_forwarded() -> None:
    log, error, unknown = Log(), Broke(), KeyError()

    async def consume() -> None:
        stream = async_proxy(async_echo(), log)
        assert await anext(stream) == "first"
        assert await stream.asend("sent") == "sent"
        assert await stream.athrow(error) is error
        assert log.ends == []
        with pytest.raises(KeyError) as raised:
            await stream.athrow(unknown)
        assert raised.value is unknown

    asyncio.run(consume())
    assert log.items == ["first", "sent", error]
    assert log.ends == [(unknown, False)]


def test_aclose_is_forwarded_and_reported() -> None:
    log = Log()

    async def consume() -> None:
        inner = async_echo()
        stream = async_proxy(inner, log)
        await anext(stream)
        await stream.aclose()
        assert inner.ag_frame is None
        await stream.aclose()

    asyncio.run(consume())
    assert log.ends == [(None, True)]


def test_generator_exit_is_reported_as_the_error() -> None:
    log, leaving = Log(), GeneratorExit()

    async def consume() -> None:
        stream = async_proxy(async_echo(), log)
        await anext(stream)
        with pytest.raises(GeneratorExit) as raised:
            await stream.athrow(leaving)
        assert raised.value is leaving

    asyncio.run(consume())
    assert log.ends == [(leaving, False)]


def test_cancellation_comes_through_and_is_reported() -> None:
    log, waiting = Log(), asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        yield 1
        waiting.set()
        await asyncio.sleep(60)
        yield 2

    async def consume() -> None:
        async for _ in async_proxy(endless(), log):
            pass

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    ((error, closed),) = log.ends
    assert isinstance(error, asyncio.CancelledError)
    assert not closed


@pytest.mark.parametrize("make", ASYNC)
@pytest.mark.parametrize("begun", [False, True])
def test_an_asynchronous_stream_that_is_dropped_has_ended(make: Any, begun: bool) -> None:
    log = Log()

    async def consume() -> None:
        stream = async_proxy(make(), log)
        if begun:
            await anext(stream)
        del stream
        gc.collect()
        await asyncio.sleep(0)
        assert log.ends == [(None, True)]

    asyncio.run(consume())
    assert log.ends == [(None, True)]


def test_a_consumer_that_stops_in_the_middle_ends_the_stream() -> None:
    """The way of a web framework: its generator around the observed one is closed by the event loop."""
    log = Log()

    async def serve() -> AsyncIterator[int]:
        async for item in async_proxy(async_counting(), log):
            yield item

    async def main() -> None:
        response = serve()
        assert await anext(response) == 1
        del response
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)
        assert log.ends == [(None, True)]

    asyncio.run(main())


def test_a_watched_asynchronous_stream_is_what_it_was() -> None:
    async def main() -> None:
        generator, other = async_counting(), Counting()
        stream, plain = async_proxy(generator, Log()), async_proxy(other, Log())
        assert isinstance(stream, AsyncGeneratorType)
        assert inspect.isasyncgen(stream)
        assert isinstance(stream, AsyncIterator)
        assert stream.ag_code is generator.ag_code
        assert repr(stream) == repr(generator)
        assert aiter(stream) is stream
        step = anext(stream)
        assert isinstance(step, Awaitable)
        assert await step == 1
        assert isinstance(plain, Counting)
        assert plain.label == "counting"
        await stream.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("make", "watch"), [(counting, proxy), (async_counting, async_proxy)])
def test_a_watched_generator_has_all_attributes_of_it(make: Any, watch: Any) -> None:
    generator = make()
    stream = watch(generator, Log())
    for name in set(dir(generator)) - {"__class_getitem__"}:  # of the class
        assert hasattr(stream, name), name
        if not callable(getattr(generator, name)) and name != "__doc__":
            assert getattr(stream, name) is getattr(generator, name), name
    assert stream.__name__ == make.__name__
    assert stream.__qualname__ == make.__qualname__


def test_no_context_is_held_while_the_consumer_runs() -> None:
    """A stream may be advanced by one task and closed by another."""
    log = Log()

    async def main() -> None:
        stream = async_proxy(async_echo(), log)
        await asyncio.ensure_future(stream.__anext__())
        await asyncio.ensure_future(stream.aclose())

    asyncio.run(main())
    assert log.ends == [(None, True)]


@pytest.mark.fault(
    "requests",
    "a server delegates with `yield from` to an iterator that is no generator, and the client leaves",
    "the generator is closed as without ai-otel: the proxy has no method that the iterator does not have",
)
def test_an_iterator_without_a_generators_methods_gets_none() -> None:
    def delegating(log: Log) -> Generator[int, Any, None]:
        yield from proxy(Counting(), log)

    closed, thrown = Log(), Log()
    server = delegating(closed)
    next(server)
    server.close()
    assert closed.ends == [(None, True)]
    server = delegating(thrown)
    next(server)
    with pytest.raises(Broke):
        server.throw(Broke())
    assert not isinstance(proxy(Counting(), Log()), Generator)
    assert not isinstance(async_proxy(Counting(), Log()), AsyncGenerator)
    assert not hasattr(async_proxy(Counting(), Log()), "aclose")


def test_the_methods_that_an_iterator_has_are_observed() -> None:
    class Closing(Counting):
        def close(self) -> str:
            return "closed"

        async def aclose(self) -> str:
            return "closed, too"

    log = Log()
    stream = proxy(Closing(), log)
    assert not hasattr(stream, "send")
    assert stream.close() == "closed"
    assert log.ends == [(None, True)]
    log = Log()
    assert asyncio.run(async_proxy(Closing(), log).aclose()) == "closed, too"
    assert log.ends == [(None, True)]
