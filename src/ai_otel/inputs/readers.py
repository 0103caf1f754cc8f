"""Readers of the values of environment variables. Each returns the text as the SDK can read it or raises `Invalid`."""

from __future__ import annotations

import functools
import math
import re
import ssl
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ai_otel.inputs.placeholders import STEP, is_resolved
from ai_otel.inputs.shown import shown


class Invalid(ValueError):
    """A value that cannot be read. The message is what to write."""

    def __init__(self, step: str, rest: str = "", using: str = "") -> None:
        super().__init__(step)
        self.step = step
        self.rest = rest
        """The value without what cannot be read."""
        self.using = using or rest


def one_of(*choices: str) -> Callable[[str], str]:
    """One of a few words, in capitals too."""

    def read(text: str) -> str:
        lowered = text.strip().lower()
        if lowered and lowered not in choices:
            raise Invalid(f"write {_or(choices)}")
        return lowered

    return read


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def whole(least: int, most: int, *, empty: bool = False) -> Callable[[str], str]:
    """A whole number; `empty` says that an empty text has a meaning."""

    def read(text: str) -> str:
        if not text.strip():
            return text if empty else ""
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise Invalid(f"write a whole number from {least} to {most}")
        return text.strip()

    return read


def number(least: float, most: float, *, above: bool = False, otherwise: str = "") -> Callable[[str], str]:
    """A number; `above` excludes the least one. `otherwise` is what the SDK needs where it cannot do without one."""

    def read(text: str) -> str:
        if not text.strip():
            return ""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            wanted = f"above {least:g}" if above else f"from {least:g} to {most:g}"
            raise Invalid(f"write a number {wanted}", otherwise)
        return text.strip()

    return read


@functools.cache
def _installed(group: str) -> frozenset[str]:
    return frozenset({entry.name for entry in entry_points(group=group)})


def entry_point(group: str) -> Callable[[str], str]:
    """The name of an entry point."""

    def read(text: str) -> str:
        name = text.strip()
        if name and name not in _installed(group):
            raise Invalid(f"it is not in {group}, is its package installed?")
        return name

    return read


def entry_points_of(group: str, *others: str) -> Callable[[str], str]:
    """Names of entry points, separated by commas; `others` need none."""

    def read(text: str) -> str:
        names = [name.strip() for name in text.split(",") if name.strip()]
        known = {*others, *_installed(group)}
        found = [name for name in names if name in known or name.lower() in others]
        if len(found) < len(names):
            missing = shown(", ".join(name for name in names if name not in found))
            raise Invalid(f"{missing} is not in {group}, is its package installed?", ",".join(found))
        return ",".join(names)

    return read


def resolved(text: str) -> str:
    """A text in which no placeholder is left."""
    if not is_resolved(text):
        raise Invalid(STEP)
    return text


def resource_attributes(text: str) -> str:
    """`name=value` pairs, separated by commas."""
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    good = [pair for pair in pairs if pair.partition("=")[0].strip() and "=" in pair and is_resolved(pair)]
    if len(good) < len(pairs):
        step = f"{len(pairs) - len(good)} of {len(pairs)} entries is no NAME=VALUE or has an unresolved placeholder"
        raise Invalid(step, ",".join(good), "the other entries" if good else "")
    return text


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def headers(text: str) -> str:
    """Headers as `name=value` pairs, separated by commas. Messages hold no part of them."""
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    good = [pair for pair in pairs if _is_header(pair)]
    if len(good) < len(pairs):
        bad = f"{len(pairs) - len(good)} of {len(pairs)} entries"
        step = f"{bad} is no NAME=VALUE, or has an unresolved placeholder; write %20 for a space"
        raise Invalid(step, ",".join(good), "the other entries" if good else "")
    return text


def _is_header(pair: str) -> bool:
    name, equals, value = pair.partition("=")
    value = unquote(value.strip())
    printable = value.isascii() and value.isprintable() and not set('";\\') & set(pair.partition("=")[2])
    return (
        bool(equals) and is_resolved(pair) and _HEADER_NAME.fullmatch(unquote(name).strip()) is not None and printable
    )


def endpoint(text: str) -> str:
    """A URL, or what gRPC takes for an address."""
    address = text.strip()
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        web = parts.scheme.lower() in ("http", "https", "")
        usable = parts.port is None or web
        usable = usable and (bool(parts.hostname) or not web or not address)
    except ValueError:
        usable = False
    if not is_resolved(address):
        raise Invalid(STEP)
    if not usable or not address.isprintable() or " " in address:
        raise Invalid("write it like http://HOST:4318")
    return address


def readable_file(text: str) -> str:
    """The path of a file that this process may read."""
    if text.strip():
        try:
            with Path(text).open("rb") as file:
                file.read(1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no path"
            raise Invalid(f"the file cannot be read ({reason})") from None
    return text if text.strip() else ""


def certificates(text: str) -> str:
    """The path of a file with certificates."""
    if readable_file(text):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text)
        except (OSError, ValueError):
            raise Invalid("the file holds no certificate in PEM format") from None
    return text if text.strip() else ""


_GRPC_CODES = frozenset(
    {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)


def grpc_codes(text: str) -> str:
    """Names of gRPC status codes, separated by commas."""
    names = [name.strip().upper() for name in text.split(",") if name.strip()]
    good = [name for name in names if name in _GRPC_CODES]
    if len(good) < len(names):
        raise Invalid("write names of gRPC status codes", ",".join(good))
    return ",".join(names)
