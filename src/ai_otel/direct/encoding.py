"""
Parts of OTLP messages as bytes, each written once where it repeats.

Names of fields and their numbers are those of `opentelemetry/proto/trace/v1/trace.proto` and `common/v1/common.proto`.
Values that are not plain are left to the SDK's own code: `BoundedAttributes` and its encoder.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common._internal import _encode_attributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from ai_otel.export.limits import MAX_CHARACTERS, MAX_ITEMS, MAX_LIST_CHARACTERS

MAX_KEYS = 512
"""Keys of which an encoder keeps the encoded form. ai-otel has some sixty."""
MAX_VALUES = 64
"""Values of one key that it keeps. What differs with each request fills this once, and is written each time."""
MAX_KEPT_CHARACTERS = 128

_ONE_BYTE = [bytes((number,)) for number in range(128)]

DOUBLE = struct.Struct("<d").pack


def varint(number: int) -> bytes:
    """A number below 2**64 in base 128, lowest digit first."""
    if number < 0x80:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def delimited(tag: bytes, content: bytes) -> bytes:
    """A field whose content has a length: a string, bytes or a message."""
    return b"".join((tag, varint(len(content)), content))


class BoundedParts:
    """The latest of a limited number of encoded messages; `None` is no limit."""

    __slots__ = ("_most", "dropped", "parts")

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.parts: list[bytes] = []
        self.dropped = 0

    def append(self, part: bytes) -> None:
        """Add one; the oldest gives way."""
        self.parts.append(part)
        if self._most is not None and len(self.parts) > self._most:
            del self.parts[0]
            self.dropped += 1

    def encoded(self, tag_of_dropped: bytes) -> bytes:
        """The messages, and the field that says how many there were before."""
        return b"".join(self.parts) + (tag_of_dropped + varint(self.dropped) if self.dropped else b"")


class NotPlainError(Exception):
    """The value is left to the SDK's code."""


class Kept(dict[Any, bytes]):
    """Encoded forms by value: the first `most` are kept."""

    def __init__(self, encode: Callable[[Any], bytes], most: int) -> None:
        super().__init__()
        self._encode = encode
        self._most = most

    def __missing__(self, value: Any) -> bytes:
        encoded = self._encode(value)
        if len(self) < self._most and len(encoded) <= 2 * MAX_KEPT_CHARACTERS:
            self[value] = encoded
        return encoded


Table = dict[str, Kept]


class _Keys(dict[str, Any]):
    """What encodes the values of a key, for one type of value."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: str) -> Any:
        if type(key) is not str or not key:
            raise NotPlainError
        if len(self) >= MAX_KEYS:
            self.clear()
        made = self[key] = self._make(key)
        return made


class AttributeEncoder:
    """
    Writes attributes as the field `tag` of a message, within the SDK's limits.

    `most` and `longest` are those limits, `None` where there is none.
    """

    def __init__(self, tag: int, most: int | None, longest: int | None) -> None:
        self._tag = bytes((tag,))
        self._limits = (most, longest)
        self._most = sys.maxsize if most is None else most
        self._longest = sys.maxsize if longest is None else longest
        self._most_items = sys.maxsize
        self._own_limits: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
        self._doubles = _Keys(self._head_of_double)
        # Of one type each: 1, 1.0 and True are the same key of a dict.
        self._tables = {
            str: _Keys(lambda key: Kept(lambda value: self._text(key, value), MAX_VALUES)),
            int: _Keys(lambda key: Kept(lambda value: self._integer(key, value), 4 * MAX_VALUES)),
            bool: _Keys(lambda key: Kept(lambda value: self._pair(key, b"\x10\x01" if value else b"\x10\x00"), 2)),
            tuple: _Keys(lambda key: Kept(lambda value: self._texts(key, value), MAX_VALUES)),
        }

    def encode(self, attributes: Mapping[str, Any] | None) -> tuple[bytes, int]:
        """The encoded attributes, and how many the limits dropped."""
        if not attributes:
            return b"", 0
        encoded = self._plain(attributes)
        if self._own_limits is not None and (encoded is None or len(encoded) > MAX_LIST_CHARACTERS):
            attributes = self._own_limits(attributes)
            encoded = self._plain(attributes)
        if encoded is None or len(attributes) > self._most:
            return self.encode_by_sdk(self.bounded(attributes))
        return encoded, 0

    def _plain(self, attributes: Mapping[str, Any]) -> bytes | None:
        """The encoded attributes; `None` where one is not plain or too long."""
        parts: list[bytes] = []
        append, tables, doubles = parts.append, self._tables, self._doubles
        try:
            for key, value in attributes.items():
                kind = type(value)
                if kind is float:
                    append(doubles[key])
                    append(DOUBLE(value))
                elif kind is list:
                    append(tables[tuple][key][tuple(value)])
                else:
                    append(tables[kind][key][value])
        except (NotPlainError, KeyError, TypeError, UnicodeEncodeError):
            return None
        return b"".join(parts)

    def limit(self, limited: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """
        Apply `ai_otel.export.limits.limited` as well.

        It reads each value. Here that is done once for those that are kept.
        """
        self._own_limits = limited
        self._longest = min(self._longest, MAX_CHARACTERS)
        self._most_items = MAX_ITEMS

    def bounded(self, attributes: Mapping[str, Any] | None) -> BoundedAttributes:
        """The attributes as the SDK keeps them."""
        most, longest = self._limits
        if self._own_limits is not None and attributes:
            attributes = self._own_limits(attributes)
        return BoundedAttributes(most, attributes, immutable=False, max_value_len=longest)

    def encode_by_sdk(self, bounded: BoundedAttributes) -> tuple[bytes, int]:
        """What the SDK would send of these attributes."""
        encoded = _encode_attributes(bounded) or ()
        return b"".join(delimited(self._tag, pair.SerializeToString()) for pair in encoded), bounded.dropped

    def _pair(self, key: str, value: bytes) -> bytes:
        """A `KeyValue` with this `AnyValue`."""
        return delimited(self._tag, delimited(b"\x0a", key.encode()) + delimited(b"\x12", value))

    def _head_of_double(self, key: str) -> bytes:
        return self._pair(key, b"\x21" + DOUBLE(0.0))[:-8]

    def _text(self, key: str, value: str) -> bytes:
        if len(value) > self._longest:
            raise NotPlainError
        return self._pair(key, delimited(b"\x0a", value.encode()))  # fails for half a surrogate pair

    def _integer(self, key: str, value: int) -> bytes:
        if not -(2**63) <= value < 2**63:
            raise NotPlainError
        return self._pair(key, b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF))

    def _texts(self, key: str, value: tuple[Any, ...]) -> bytes:
        if not 0 < len(value) <= self._most_items or any(
            type(item) is not str or len(item) > self._longest for item in value
        ):
            raise NotPlainError
        items = [delimited(b"\x0a", delimited(b"\x0a", item.encode())) for item in value]
        return self._pair(key, delimited(b"\x2a", b"".join(items)))


class Frame:
    """What a request has around the spans of one resource and scope, as the SDK encodes it."""

    __slots__ = ("of", "resource", "resource_end", "scope", "scope_end", "size")

    def __init__(self, resource: Resource, scope: Any) -> None:
        self.of = resource
        bare = ReadableSpan("", INVALID_SPAN_CONTEXT, resource=resource, instrumentation_scope=scope)
        (around,) = encode_spans([bare]).resource_spans
        (within,) = around.scope_spans
        self.resource = delimited(b"\x0a", around.resource.SerializeToString())
        self.resource_end = delimited(b"\x1a", around.schema_url.encode()) if around.schema_url else b""
        self.scope = delimited(b"\x0a", within.scope.SerializeToString())
        self.scope_end = delimited(b"\x1a", within.schema_url.encode()) if within.schema_url else b""
        # Two tags and two lengths besides.
        self.size = sum(map(len, (self.resource, self.resource_end, self.scope, self.scope_end))) + 12
