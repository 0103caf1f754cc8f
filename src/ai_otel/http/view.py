"""What the views of ASGI and WSGI applications have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_otel.http.routes import ROUTES, Routes

if TYPE_CHECKING:
    from ai_otel.http.answered import Answers
    from ai_otel.record import Exchange, RequestRecord
    from ai_otel.recorder import Recorder

SEEN = "ai_otel.record"
"""Key in an ASGI scope and a WSGI environment: an application mounted in another one is the same request."""

METHODS = frozenset({"POST", "PUT"})


@dataclass(frozen=True)
class View:
    """
    How requests of this process are seen.

    `app_seen` is called when an application is ready to serve, once in each process by each hook. Without `answers`
    none is read.
    """

    routes: Routes = ROUTES
    answers: Answers | None = None
    app_seen: Callable[[], None] | None = None


def close(recorder: Recorder, record: RequestRecord, exchange: Exchange) -> None:
    """Close the record of a request that is over, or discard it where it was no inference."""
    if not record.inferences and (record.operation is None or is_redirect(exchange.status)):
        recorder.discard(record)
        return
    if exchange.answer is not None:
        exchange.answer.gather()
    # What runs after the last byte, such as background tasks, is not the client's request any more.
    recorder.close(record, exchange.last_byte_ns)


def is_redirect(status: int | None) -> bool:
    """Whether the client is sent elsewhere: nothing was computed."""
    return status is not None and 300 <= status < 400
