"""
Puts what an answer says of itself on the record of its request.

A record that an engine's adapter fills needs nothing of it. Elsewhere the answer is the only source, or completes what
the application's own code reports (`ai_otel.inference`), whose values win.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from ai_otel.http.answers import Answer, AnswerValues
from ai_otel.record import Choice, Exchange, Inference, Outcome, RequestRecord


class Answers:
    """
    Reads the answers of this process.

    `provider` is the name of a server without an adapter; `adapter` returns whether one is attached.
    """

    def __init__(self, provider: str, adapter: Callable[[], bool]) -> None:
        self._provider = provider
        self._adapter = adapter

    def begin(self, record: RequestRecord, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer begins. What it is read for is known by its status and by who reports the request."""
        adapter = self._adapter()
        if record.operation is None or (adapter and record.inferences) or not _is_success(exchange.status):
            return
        exchange.answer = Answer.of(headers)
        exchange.complete = functools.partial(_complete, self._provider, adapter)

    def saw(self, record: RequestRecord, exchange: Exchange, body: bytes) -> None:
        """A piece of the answer passes."""
        if exchange.answer is not None and body:
            if record.inferences and self._adapter():  # one that began after the headers were sent
                exchange.answer = exchange.complete = None
                return
            exchange.answer.saw(body)


def _is_success(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _complete(provider: str, adapter: bool, record: RequestRecord) -> None:
    """Fill the record of a complete answer. With an adapter, the engine's counters count what it did."""
    if record.outcome is not Outcome.FINISHED:
        return
    answer = record.exchange.answer if record.exchange is not None else None
    values = answer.read() if isinstance(answer, Answer) else AnswerValues()
    if not record.inferences:
        record.inferences.append(_inference(record, provider, values, counted_by_engine=adapter))
    elif len(record.inferences) == 1 and not adapter:
        _add(record.inferences[0], values)


def _inference(record: RequestRecord, provider: str, values: AnswerValues, *, counted_by_engine: bool) -> Inference:
    made = Inference(provider, record.operation, counted_by_engine=counted_by_engine)
    made.start_ns, made.end_ns, made.outcome = record.start_ns, record.end_ns, record.outcome
    made.choices = [Choice(reason, completed=True) for reason in values.finish_reasons or (None,)]
    _add(made, values)
    return made


def _add(inference: Inference, values: AnswerValues) -> None:
    """Set what is not known yet."""
    inference.response_model = inference.response_model or values.model
    inference.request_id = inference.request_id or values.request_id
    inference.finish_reasons = inference.finish_reasons or values.finish_reasons
    inference.stream = inference.stream or values.streamed or None
    names = [name for name in _COUNTED if getattr(inference, name) is None and getattr(values, name) is not None]
    for name in names:
        setattr(inference, name, getattr(values, name))
    if len(inference.choices) != 1 and names:
        # Which choice has how many tokens is not said: they are counted as a whole.
        inference.choices.append(Choice())
    for name in names:
        setattr(inference.choices[-1], _COUNTED[name], getattr(values, name))
    if len(inference.choices) == 1 and values.finish_reasons and len(values.finish_reasons) == 1:
        inference.choices[0].finish_reason = inference.choices[0].finish_reason or values.finish_reasons[0]


_COUNTED = {"input_tokens": "counted_input_tokens", "output_tokens": "output_tokens", "cached_tokens": "cached_tokens"}
"""Fields of an inference → of a choice."""
