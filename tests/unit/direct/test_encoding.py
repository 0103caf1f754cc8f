from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ai_otel.direct.encoding import MAX_KEYS, MAX_VALUES, AttributeEncoder, BoundedParts, varint
from ai_otel.export.limits import limited

ATTRIBUTES = 9
"""The number of the field in `Span`."""


def encoder(most: int | None = 128, longest: int | None = None) -> AttributeEncoder:
    return AttributeEncoder(ATTRIBUTES << 3 | 2, most, longest)


def read(encoded: bytes) -> list[tuple[str, str, Any]]:
    """Key, type and value of each attribute."""
    found = []
    for pair in Span.FromString(encoded).attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found.append((pair.key, kind, [each.string_value for each in value.values] if kind == "array_value" else value))
    return found


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    span = Span(dropped_attributes_count=number & 0xFFFF_FFFF)
    assert (b"\x50" + varint(number & 0xFFFF_FFFF) if number & 0xFFFF_FFFF else b"") == span.SerializeToString()
    assert int.from_bytes(bytes(varint(number)), "little") >= 0
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint(number))) == number


def test_equal_values_of_different_types_stay_apart() -> None:
    """1, 1.0 and True are one key of a dict, and so are 0.0 and -0.0."""
    encode = encoder().encode
    for _ in range(2):
        for value, kind in ((1, "int_value"), (True, "bool_value"), (1.0, "double_value"), (0, "int_value")):
            assert read(encode({"key": value})[0]) == [("key", kind, value)]
        assert [str(read(encode({"key": value})[0])[0][2]) for value in (0.0, -0.0)] == ["0.0", "-0.0"]
        assert read(encode({"key": ("a", "b")})[0]) == read(encode({"key": ["a", "b"]})[0])


def test_a_key_and_a_value_are_not_taken_for_those_of_another_attribute() -> None:
    encode = encoder().encode
    for _ in range(2):
        assert read(encode({"a": "x", "b": "y", "x": "a"})[0]) == [
            ("a", "string_value", "x"),
            ("b", "string_value", "y"),
            ("x", "string_value", "a"),
        ]


@pytest.mark.fault(
    "requests", "each request has other values and keys of attributes", "the encoder keeps a limited number of them"
)
def test_what_is_kept_is_limited() -> None:
    made = encoder()
    for number in range(10 * MAX_KEYS):
        made.encode({"id": f"request {number}", f"key {number}": number, "long": "x" * 1000 + str(number)})
    texts, numbers = made._tables[str], made._tables[int]
    assert len(texts["id"]) == MAX_VALUES
    assert len(texts["long"]) == 0
    assert len(numbers) <= MAX_KEYS
    assert read(made.encode({"id": "another"})[0]) == [("id", "string_value", "another")]


def test_a_value_over_the_limit_is_cut_each_time() -> None:
    made = encoder(longest=3)
    for _ in range(2):
        assert read(made.encode({"key": "abcdef", "list": ("abcd",)})[0]) == [
            ("key", "string_value", "abc"),
            ("list", "array_value", ["abc"]),
        ]
        assert read(made.encode({"key": "abc"})[0]) == [("key", "string_value", "abc")]


def test_more_attributes_than_the_limit_are_dropped_and_counted() -> None:
    encoded, dropped = encoder(most=2).encode({"a": 1, "b": 2, "c": 3, "d": 4})
    assert ([key for key, _, _ in read(encoded)], dropped) == (["c", "d"], 2)
    assert encoder(most=2).encode({}) == encoder(most=2).encode(None) == (b"", 0)


def test_an_attribute_that_cannot_be_encoded_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    encoded, _ = encoder().encode({"a": 1, "broken": "\ud800", "large": 2**64, "b": 2})
    assert [key for key, _, _ in read(encoded)] == ["a", "b"]
    assert len(caplog.messages) == 2


def test_the_latest_parts_are_kept() -> None:
    parts = BoundedParts(2)
    for part in (b"a", b"b", b"c"):
        parts.append(part)
    assert parts.encoded(b"!") == b"bc!\x01"
    assert BoundedParts(None).encoded(b"!") == b""


KEYS = st.sampled_from(["a", "b", "c", "d"])
TEXT = st.text(max_size=5) | st.sampled_from(["x" * 1024, "x" * 1025, "é" * 3000, "\ud800", "y" * 900])
VALUE = (
    TEXT
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(TEXT, max_size=140)
    | st.lists(st.integers() | TEXT, max_size=5).map(tuple)
    | st.just(object())
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUE), max_size=4), st.none() | st.integers(0, 1100))
def test_the_limits_of_client_values_hold_as_if_applied_before(sets: list[dict[str, Any]], longest: int | None) -> None:
    limiting, plain = encoder(longest=longest), encoder(longest=longest)
    limiting.limit(limited)
    logging.disable()
    try:
        for attributes in sets:
            assert limiting.encode(attributes) == plain.encode(limited(attributes))
    finally:
        logging.disable(logging.NOTSET)
