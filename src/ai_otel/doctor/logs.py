"""Captures log messages as findings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Capture(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def captured_messages(logger_name: str) -> Iterator[list[str]]:
    """Collect the messages of a logger and its children, and do not propagate them meanwhile."""
    logger, capture = logging.getLogger(logger_name), _Capture()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(capture)
    try:
        yield capture.messages
    finally:
        logger.removeHandler(capture)
        logger.propagate = before
