"""What an error on the way to a server means, in one word and one sentence."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from enum import Enum


class Reach(str, Enum):
    """How far we got."""

    ACCEPTED = "accepted"
    PARTLY = "partly accepted"
    REFUSED = "connection refused"
    NO_ANSWER = "no answer"
    NO_NAME = "name not found"
    TLS = "TLS error"
    UNREACHABLE = "unreachable"
    OTHER_PROTOCOL = "another protocol"
    STATUS = "status"
    MALFORMED = "malformed endpoint"
    NOT_TRIED = "not tried"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it came from."""
    seen: set[int] = set()
    pending: BaseException | None = error
    while pending is not None and id(pending) not in seen:
        seen.add(id(pending))
        yield pending
        reason = getattr(pending, "reason", None)
        pending = pending.__cause__ or pending.__context__ or (reason if isinstance(reason, BaseException) else None)


def classify(error: BaseException) -> Reach | None:
    """How far this error lets us think we got; `None` where it does not say."""
    for each in reversed(list(chain(error))):
        for kinds, reach in _MEANING:
            if isinstance(each, kinds):
                return reach
    return None


# First match counts: the more special kinds stand first.
_MEANING: tuple[tuple[tuple[type[BaseException], ...], Reach], ...] = (
    ((ssl.SSLError,), Reach.TLS),
    ((socket.gaierror,), Reach.NO_NAME),
    ((ConnectionRefusedError,), Reach.REFUSED),
    ((ConnectionResetError, BrokenPipeError, http.client.BadStatusLine), Reach.OTHER_PROTOCOL),
    ((TimeoutError,), Reach.NO_ANSWER),
    ((OSError,), Reach.UNREACHABLE),
)
