"""Calls to the kubelet over a unix socket, and why one was not answered, in one sentence."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

TIMEOUT_S = 10.0
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""The kubelet's own client takes 16 MiB from PodResources; whole pods are larger."""


class Unanswered(Exception):
    """The kubelet did not answer. `str()` is one sentence that says why and what to do."""


class Refused(Unanswered):
    """It was asked too often, by all of its clients together: the limit is 100 calls a second."""


class Unknown(Unanswered):
    """This kubelet has no such call."""


def call(path: Path, method: str, request: Any, answer: type[Any], timeout_s: float = TIMEOUT_S) -> Any:
    """
    Ask once, over a connection of its own: a restarted kubelet makes a new socket, and we ask seldom.

    Raises `Unanswered`.
    """
    _knock(path, timeout_s)
    options = [
        ("grpc.default_authority", "localhost"),  # else it is the socket's path, which the kubelet's HTTP/2 refuses
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", LARGEST_ANSWER_BYTES),
    ]
    with grpc.insecure_channel(f"unix://{path.absolute()}", options=options) as channel:
        ask = channel.unary_unary(method, request_serializer=type(request).SerializeToString)
        try:
            return answer.FromString(ask(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise _reason(path, method, error) from None
        except DecodeError as error:
            raise Unknown(f"what {path} answered to {method} cannot be read: {error}") from None


def _knock(path: Path, timeout_s: float) -> None:
    """Raise `Unanswered` where nobody listens; gRPC would say so later, and in other words each version."""
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.settimeout(timeout_s)
        try:
            knocking.connect(str(path))
        except FileNotFoundError:
            raise Unanswered(
                f"{path} is not there: on a Kubernetes node, mount its directory {path.parent} into this container"
            ) from None
        except PermissionError:
            raise Unanswered(
                f"{path} may not be opened: it belongs to root, so run as user 0; no capability is needed"
            ) from None
        except ConnectionRefusedError:
            raise Unanswered(f"nobody listens on {path}: the kubelet is restarting or has stopped") from None
        except OSError as error:
            raise Unanswered(f"{path} cannot be reached: {error}") from None


def _reason(path: Path, method: str, error: Any) -> Unanswered:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(f"{path} is asked too often ({details}): it allows all its clients together 100 calls a second")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unknown(f"the kubelet at {path} has no {method}: it is older, or the feature is off")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unanswered(f"{path} did not answer {method} in time: the kubelet is busy or hangs")
    return Unanswered(f"{path} did not answer {method}: {code.name} {details}")
