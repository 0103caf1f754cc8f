"""
Functions that stand for decorated generators: each run of one is a request.

What the consumer sends and throws in reaches the application's generator, and what that one returns the consumer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from ai_otel.manual.requests import Request


def generator(function: Callable[..., Any], make: Callable[[], Request]) -> Callable[..., Any]:
    """Stand for a generator function."""

    def wrapper(*arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
        with make() as request:
            return (yield from _Observed(function(*arguments, **options), request))

    return wrapper


class _Observed:
    """A generator whose first item is the first token of a request; it is the operand of `yield from`."""

    __slots__ = ("_items", "_request", "close")

    def __init__(self, items: Generator[Any, Any, Any], request: Request) -> None:
        self._items = items
        self._request = request
        self.close = items.close

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._saw(next(self._items))

    def send(self, value: Any) -> Any:
        return self._saw(self._items.send(value))

    def throw(self, *error: Any) -> Any:
        return self._saw(self._items.throw(*error))

    def _saw(self, item: Any) -> Any:
        self._request.first_token()
        return item


class _Thrown:
    """Keeps an exception that the consumer throws in; one that closes the generator goes on."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, GeneratorExit):
            return False
        self.error = error
        return True


def async_generator(function: Callable[..., Any], make: Callable[[], Request]) -> Callable[..., Any]:
    """Stand for an asynchronous generator function, for which there is no `yield from`."""

    async def wrapper(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
        async with make() as request:
            items = function(*arguments, **options)
            try:
                advance = items.__anext__()
                while True:
                    try:
                        item = await advance
                    except StopAsyncIteration:
                        return
                    request.first_token()
                    sent, thrown = None, _Thrown()
                    with thrown:
                        sent = yield item
                    advance = items.asend(sent) if thrown.error is None else items.athrow(thrown.error)
            finally:
                await items.aclose()

    return wrapper
