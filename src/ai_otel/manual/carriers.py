"""What joins the work of another thread or process to the call that is being served."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any

from ai_otel.hooks.guard import Guard
from ai_otel.record import RequestRecord
from ai_otel.recorder import CURRENT

GUARD = Guard("manual", lasting=True)
"""Of everything that the application calls."""

HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("ai_otel_headers", default=None)
"""Trace context that came from another process."""


class Carrier:
    """
    What joins the work of another thread or process to the call that is being served.

    In this process, inferences that begin where it is attached belong to the same call. Pickled, it carries the
    caller's trace context: what another process reports belongs to the same trace.
    """

    __slots__ = ("_headers", "_record")

    def __init__(self, record: RequestRecord | None, headers: Mapping[str, str] | None = None) -> None:
        self._record = record
        self._headers = headers

    @property
    def record(self) -> RequestRecord | None:
        """The call, in the process that serves it and until it ends."""
        record = self._record
        return None if record is None or record.closed or record.generation != os.getpid() else record

    @property
    def headers(self) -> Mapping[str, str]:
        """The trace context as HTTP headers."""
        if self._headers is None:
            self._headers = GUARD(_headers_of, self._record) or {}
        return self._headers

    def __reduce__(self) -> tuple[type[Carrier], tuple[None, dict[str, str]]]:
        return Carrier, (None, dict(self.headers))


def _headers_of(record: RequestRecord | None) -> dict[str, str]:
    from opentelemetry import propagate

    received = record.headers if record is not None and record.headers is not None else {}
    fields = propagate.get_global_textmap().fields
    headers = {name: value for name in fields if isinstance(value := received.get(name), str) and value}
    if not headers:
        propagate.inject(headers, record.context if record is not None else None)
    return headers


def carry() -> Carrier:
    """Return what joins the work of another thread or process to the call that this code serves: see `attach`."""
    return Carrier(CURRENT.get())


@contextmanager
def attach(carrier: Carrier) -> Iterator[None]:
    """Inferences that begin inside of the block belong to the call where the carrier was made."""
    tokens = GUARD(_attach, carrier)
    try:
        yield
    finally:
        # In a generator, the block may be left in another context than the one where it was entered, as where a
        # framework takes each item in another thread. The other one ends by itself, and cannot be reset from here.
        for variable, token in tokens or ():
            with suppress(ValueError):
                variable.reset(token)


def _attach(carrier: Carrier) -> list[tuple[ContextVar[Any], Token[Any]]]:
    record = carrier.record
    headers = None if record is not None else carrier.headers
    return [(CURRENT, CURRENT.set(record)), (HEADERS, HEADERS.set(headers))]
