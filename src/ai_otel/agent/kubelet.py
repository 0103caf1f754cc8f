"""Calls the kubelet over a Unix socket, with one sentence for each reason of failure."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

T = TypeVar("T")

TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""The kubelet's own client accepts 16 MiB from PodResources; complete pods are larger."""


class Unanswered(Exception):
    """The kubelet did not answer. `str()` is one sentence with the reason and the next step."""


class Refused(Unanswered):
    """The kubelet's rate limit is exceeded: 100 calls a second for all of its clients together."""


class Malformed(Unanswered):
    """The answer cannot be decoded, or has more entries than any node."""


class Unknown(Unanswered):
    """The kubelet does not provide the call."""


def call(path: Path, method: str, request: Any, answer: type[Any], timeout_s: float = TIMEOUT_S) -> Any:
    """Make one call over a new connection: a restarted kubelet creates a new socket. Raises `Unanswered`."""
    _check_socket(path, timeout_s)
    options = [
        ("grpc.default_authority", "localhost"),  # the default, the socket's path, is rejected by the kubelet
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ]
    with grpc.insecure_channel(f"unix://{path.absolute()}", options=options) as channel:
        ask = channel.unary_unary(method, request_serializer=type(request).SerializeToString)
        try:
            return answer.FromString(ask(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise _reason(path, method, error) from None
        except DecodeError as error:
            raise Malformed(f"the response of {path} to {method} cannot be decoded: {error}") from None


def bounded(entries: Iterable[T], most: int, what: str) -> list[T]:
    """Return the entries of an answer. Raises `Malformed` if there are more than `most`."""
    found = list(islice(entries, most + 1))
    if len(found) > most:
        raise Malformed(f"the kubelet lists more than {most} {what}")
    return found


def _check_socket(path: Path, timeout_s: float) -> None:
    """Raise `Unanswered` if the socket is not served. gRPC's own errors are slower and vary by version."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except FileNotFoundError:
            raise Unanswered(
                f"{path} does not exist: on a Kubernetes node, mount its directory {path.parent} into this container"
            ) from None
        except PermissionError:
            raise Unanswered(
                f"{path} cannot be opened: it belongs to root, so run as user 0; no capability is needed"
            ) from None
        except ConnectionRefusedError:
            raise Unanswered(f"{path} is not served: the kubelet is restarting or has stopped") from None
        except OSError as error:
            raise Unanswered(f"{path} cannot be reached: {error}") from None


def _reason(path: Path, method: str, error: Any) -> Unanswered:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(
            f"{path} is over its rate limit ({details}): it allows all its clients together 100 calls a second"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unknown(f"the kubelet at {path} has no {method}: it is older, or the feature is off")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unanswered(f"{path} did not answer {method} in time: the kubelet is busy or hangs")
    return Unanswered(f"{path} did not answer {method}: {code.name} {details}")
