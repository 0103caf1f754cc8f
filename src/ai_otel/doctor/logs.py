"""What a library says in its log while we call it: the sentences are written once, where they arise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def captured_messages(logger_name: str) -> Iterator[list[str]]:
    """Collect what is logged below this logger, and keep it from everybody else meanwhile."""
    logger, ear = logging.getLogger(logger_name), _Ear()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield ear.messages
    finally:
        logger.removeHandler(ear)
        logger.propagate = before


def complaints(call: Callable[[], object]) -> list[str]:
    """What ai-otel itself complains of while `call` runs."""
    with captured_messages("ai_otel") as messages:
        call()
    return [message.removeprefix("ai-otel: ") for message in messages]
