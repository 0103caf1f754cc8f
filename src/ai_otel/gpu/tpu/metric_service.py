"""
Two messages of libtpu's metrics service, on the wire: `MetricRequest` out, and what we need of `MetricResponse` in.

By hand, because generated code is bound to the release of protobuf that it was made with, and a server's image has its
own: this reads five kinds of fields and works beside any of them, and beside `tpu-info`, whose messages have the same
names. Field numbers are those of `tpu_metric_service.proto`, which Google publishes with `tpu-info`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def asked(metric: str) -> bytes:
    """`MetricRequest` with `metric_name` = 1."""
    name = metric.encode()
    if len(name) > 127:
        raise ValueError("a name of at most 127 bytes")
    return bytes((1 << 3 | BYTES, len(name))) + name


def told(response: bytes) -> Mapping[int, float]:
    """`MetricResponse`: the value of each point, by its device's number. Raises `ValueError` where it is none."""
    points: dict[int, float] = {}
    for metric in _messages(response, 1):
        for point in _messages(metric, 3):
            number, value = _number(point), _value(point)
            if number is not None and value is not None:
                points[number] = value
    return points


def _number(point: bytes) -> int | None:
    """`Metric.attribute.value`: the device's number, in older releases of libtpu an int (3), in newer a text (1)."""
    for attribute in _messages(point, 1):
        for value in _messages(attribute, 2):
            for field, kind, content in _fields(value):
                if field == 3 and kind == VARINT and isinstance(content, int):
                    return content
                if field == 1 and isinstance(content, bytes) and content.isdigit():
                    return int(content)
    return None


def _value(point: bytes) -> float | None:
    """`Metric.gauge` (3) or `.counter` (4): as_double (1) or as_int (2)."""
    for which in (3, 4):
        for measure in _messages(point, which):
            for field, _, content in _fields(measure):
                if field == 1 and isinstance(content, float):
                    return content
                if field == 2 and isinstance(content, int):
                    return content
    return None


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    return (content for field, _, content in _fields(message) if field == number and isinstance(content, bytes))


def _fields(message: bytes) -> Iterator[tuple[int, int, int | float | bytes]]:
    """Every field of a message: its number, its kind, and its content."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        content: int | float | bytes
        if kind == VARINT:
            content, place = _varint(message, place)
        elif kind in {FIXED64, FIXED32}:
            size = 8 if kind == FIXED64 else 4
            (content,), place = struct.unpack("<d" if size == 8 else "<f", _cut(message, place, size)), place + size
        elif kind == BYTES:
            size, place = _varint(message, place)
            content, place = _cut(message, place, size), place + size
        else:
            raise ValueError(f"field {number} is of no kind that protobuf has ({kind})")
        yield number, kind, content


def _cut(message: bytes, place: int, size: int) -> bytes:
    if place + size > len(message):
        raise ValueError("the message ends within a field")
    return message[place : place + size]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
    raise ValueError("the message ends within a number")
