"""Requests that a server's own code reports."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ai_otel.inputs.shown import shown
from ai_otel.manual.activated import activated
from ai_otel.manual.carriers import GUARD, HEADERS, Carrier
from ai_otel.manual.generators import async_generator, generator
from ai_otel.record import Choice, Inference, Outcome, Parameters, Progress, clock
from ai_otel.recorder import Recorder

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("ai_otel")

_PARAMETERS = (
    *("max_tokens", "temperature", "top_p", "top_k", "seed", "stop_sequences"),
    *("frequency_penalty", "presence_penalty", "choice_count"),
)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Request:
    """
    One inference of the application's own: a context manager, synchronous or asynchronous, and a decorator.

    It begins with the block, and ends once: by `finish`, `fail` or `cancel`, else with the block, by the exception that
    leaves it. Every method may be called from any thread, and does nothing after the end.
    """

    __slots__ = (
        "_arguments",
        "_cached",
        "_first_ns",
        "_headers",
        "_inference",
        "_input",
        "_output",
        "_reason",
        "_recorder",
        "_scheduled_ns",
    )

    def __init__(self, arguments: Mapping[str, Any], headers: Mapping[str, str] | None) -> None:
        self._arguments = arguments
        self._headers = None if headers is None else GUARD(_mapping, headers)
        self._recorder: Recorder | None = None
        self._inference: Inference | None = None
        self._input = arguments["input_tokens"]
        self._output: Any = None
        self._cached: Any = None
        self._reason: str | None = None
        self._scheduled_ns: int | None = None
        self._first_ns: int | None = None

    # What the application knows.

    def start(self) -> Self:
        """Begin now. The application has to end what is begun without `with`."""
        if self._inference is None:
            GUARD(self._begin)
        return self

    def scheduled(self) -> None:
        """Computation begins now: until here the request has waited."""
        if self._inference is not None and self._scheduled_ns is None:
            self._scheduled_ns = clock(self._inference)

    def first_token(self) -> None:
        """The first token of the answer is there; later calls are ignored."""
        if self._inference is not None and self._first_ns is None:
            self._first_ns = clock(self._inference)

    def tokens(self, *, input: int | None = None, output: int | None = None, cached: int | None = None) -> None:  # noqa: A002 - the word of the conventions
        """
        Set numbers of tokens of the whole request so far: of the prompt, of the answer, and of the prompt's tokens
        that came from a cache. What is not given stays as it is, and unknown stays unknown: never estimate.
        """
        if input is not None:
            self._input = input
        if output is not None:
            self._output = output
        if cached is not None:
            self._cached = cached

    def finish(self, reason: str | None = None) -> None:
        """The answer is complete; `reason` is the model's, such as `stop` or `length`."""
        self._reason = self._reason or reason
        self._end(Outcome.FINISHED, None)

    def fail(self, error_type: str) -> None:
        """It failed; `error_type` is a name of low cardinality, such as an exception's class."""
        self._end(Outcome.FAILED, error_type)

    def reject(self, error_type: str) -> None:
        """It is refused before anything is computed for it."""
        self._end(Outcome.REJECTED, error_type)

    def cancel(self) -> None:
        """The client has left, or wants no answer any more."""
        self._end(Outcome.CANCELLED, Outcome.CANCELLED.value)

    # Begin and end.

    def _begin(self) -> None:
        handle = activated()
        if handle is None:
            return
        given = self._arguments
        provider = given["provider"] or handle.settings.provider
        recorder = handle.serve(provider)
        inference = Inference.started(provider, given["operation"], given["request_id"])
        inference.model, inference.stream = given["model"], given["stream"]
        inference.read_engine, inference.progress = self._read, self._progress
        headers = self._headers if self._headers is not None else HEADERS.get()
        self._recorder, self._inference = recorder, recorder.begin(inference, headers)

    def _end(self, outcome: Outcome, error_type: str | None) -> None:
        if self._recorder is not None and self._inference is not None:
            GUARD(self._recorder.end, self._inference, outcome, error_type)

    def end_by(self, error: BaseException | None) -> None:
        """End as a block ends that `error` leaves: finished for `None`."""
        if error is None:
            self._end(Outcome.FINISHED, None)
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.cancel()
        else:
            self.fail(type(error).__name__)

    # Read on the recorder's thread, and for energy on the sampler's.

    def _read(self, inference: Inference) -> None:
        given = self._arguments
        inference.parameters = Parameters(**{name: given[name] for name in _PARAMETERS})
        inference.input_tokens = _count(self._input, "input_tokens")
        inference.output_tokens = _count(self._output, "output")
        inference.cached_tokens = _count(self._cached, "cached")
        inference.first_token_ns = self._first_ns
        inference.finish_reasons = (str(self._reason),) if self._reason else None
        begun, first = self._scheduled_ns, self._first_ns
        choice = Choice(self._reason, completed=inference.outcome is Outcome.FINISHED)
        choice.counted_input_tokens = inference.input_tokens if choice.completed or first is not None else None
        choice.output_tokens, choice.cached_tokens = inference.output_tokens, inference.cached_tokens
        if begun is not None:
            choice.queue_s = (begun - inference.start_ns) / 1e9
        if first is not None:
            choice.first_token_s = (first - inference.start_ns) / 1e9
            choice.decode_s = (inference.end_ns - first) / 1e9
            if begun is not None:
                choice.prefill_s = (first - begun) / 1e9
        inference.choices = [choice]

    def _progress(self) -> Progress | None:
        if self._first_ns is None:
            return None
        begun = self._scheduled_ns
        return Progress(
            _count(self._input, "input_tokens"),
            _count(self._cached, "cached"),
            _count(self._output, "output") or 0,
            prefilling=False,
            first_token_ns=self._first_ns,
            prefill_s=None if begun is None else (self._first_ns - begun) / 1e9,
        )

    # As a context manager.

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_by(error)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_by(error)

    # As a decorator.

    def __call__(self, function: F) -> F:
        """
        Report each call of a function as an inference of its own; of a generator, from its first item to its last.

        The first item of a generator counts as the first token.
        """
        if inspect.isasyncgenfunction(function):
            wrapper: Callable[..., Any] = async_generator(function, self._again)
        elif inspect.isgeneratorfunction(function):
            wrapper = generator(function, self._again)
        elif inspect.iscoroutinefunction(function):

            async def wrapper(*arguments: Any, **options: Any) -> Any:
                async with self._again():
                    return await function(*arguments, **options)
        else:

            def wrapper(*arguments: Any, **options: Any) -> Any:
                with self._again():
                    return function(*arguments, **options)

        return cast("F", functools.wraps(function)(wrapper))

    def _again(self) -> Request:
        return Request(self._arguments, self._headers)

    def carry(self) -> Carrier:
        """Return what joins the work of another thread or process to this request's call: see `attach`."""
        return Carrier(self._inference.record if self._inference is not None else None, self._headers)

    def stream(self, items: Iterable[T]) -> Iterator[T]:
        """Pass the items of an answer through; the first one counts as the first token."""
        for item in items:
            self.first_token()
            yield item


def inference(
    operation: str = "chat",
    *,
    provider: str | None = None,
    model: str | None = None,
    request_id: str | None = None,
    input_tokens: int | None = None,
    stream: bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop_sequences: tuple[str, ...] | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    choice_count: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """
    One inference that the application's own code computes.

    `operation` is a value of `gen_ai.operation.name`, such as `chat`, `text_completion`, `embeddings`; `provider` the
    name of the server in telemetry, of low cardinality, by default that of `AI_OTEL_PROVIDER`. `headers` are those of
    the caller's request, for its `traceparent`, where no HTTP framework is observed. Everything else is as the client
    asked; `None` is unknown.
    """
    arguments = {
        "operation": operation,
        "provider": provider,
        "model": model,
        "request_id": request_id,
        "input_tokens": input_tokens,
        "stream": stream,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop_sequences": stop_sequences,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "choice_count": choice_count,
    }
    return Request(arguments, headers)


@contextmanager
def batch(requests: Iterable[Request]) -> Iterator[None]:
    """
    Compute requests together: each is scheduled when the block begins, and ended by an exception that leaves it.

    Without one, each request still ends by itself.
    """
    together: list[Request] = GUARD(list, requests) or []
    for request in together:
        GUARD(Request.scheduled, request)
    try:
        yield
    except BaseException as error:
        for request in together:
            GUARD(Request.end_by, request, error)
        raise


def _mapping(headers: Any) -> Mapping[str, str] | None:
    """The headers, of any class; `None` where no name can be looked up, as in a list of pairs."""
    if hasattr(headers, "get") and hasattr(headers, "items"):
        return cast("Mapping[str, str]", headers)
    if "headers" not in _logged:
        _logged.add("headers")
        log.warning("ai-otel: inference(): headers=%s is no mapping and is left out", type(headers).__name__)
    return None


def _count(value: Any, name: str) -> int | None:
    """A number of tokens; `None` for what is none."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except (TypeError, ValueError):
        count = -1
    if isinstance(value, bool) or not 0 <= count < 2**63:
        if name not in _logged:
            _logged.add(name)
            log.warning("ai-otel: inference(): %s=%s is no number of tokens and is left out", name, shown(repr(value)))
        return None
    return count


_logged: set[str] = set()
