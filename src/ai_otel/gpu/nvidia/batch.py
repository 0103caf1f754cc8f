"""
Batched NVML field queries (`nvmlDeviceGetFieldValues`): one call, with a return code and a type for each field.

Single fields may fail while the call succeeds. A value can be decoded by its type only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ctypes import byref, c_int
from struct import Struct
from typing import Any

from ai_otel.gpu.nvidia.calls import SUCCESS, Calls, support_of
from ai_otel.gpu.source import Support
from ai_otel.gpu.values import valid_count

_CALL = "nvmlDeviceGetFieldValues"
_ANSWER = Struct("8x16xii8s")
"""`nvmlFieldValue_t`: type, return code and value, after number, scope, time and latency."""
_VALUE = {kind: Struct(code) for kind, code in enumerate("dILQqiH")}
"""`nvmlValueType_t` → memory layout of the value."""

FieldValue = tuple[float | int | Support, int]
"""Value and `nvmlValueType_t` of a field. A plain tuple, because each sample has a dozen."""


class Batch:
    """
    Fields that are queried together. Fields that the driver does not support are queried once.

    The binding writes requests and reads answers by attribute, which costs ten times the call. Therefore the request is
    reused, passed to the library's function directly, and decoded from memory by the layout of NVML's ABI.
    """

    def __init__(self, calls: Calls, handle: Any, numbers: Iterable[int], scopes: Mapping[int, int]) -> None:
        self._calls = calls
        self._handle = handle
        self._scopes = {number: scopes.get(number, 0) for number in numbers}
        self._absent: dict[int, FieldValue] = {}
        self._asked: list[int] = []
        self._request: Any = None

    def ask(self) -> Mapping[int, FieldValue]:
        """Return every field's value by its number. Raises `DeviceLost`."""
        if self._request is None:
            self._plan()
        refused = self._call() if self._asked else None
        if refused is not None:
            return self._absent | dict.fromkeys(self._asked, (refused, 0))
        values = {**self._absent, **dict(zip(self._asked, _values(self._request), strict=True))}
        for number in self._asked:
            why = values[number][0]
            if isinstance(why, Support):
                self._calls.remember(number, why)
                self._request = None
        return values

    def replan(self) -> None:
        """Select the fields again at the next call: permissions may have changed."""
        self._request = None

    def _plan(self) -> None:
        known = {number: self._calls.known(number) for number in self._scopes}
        self._absent = {number: (why, 0) for number, why in known.items() if why is not None}
        self._asked = [number for number, why in known.items() if why is None]
        self._request = (self._calls.library.c_nvmlFieldValue_t * len(self._asked))()
        for value, number in zip(self._request, self._asked, strict=True):
            value.fieldId, value.scopeId = number, self._scopes[number]

    def _call(self) -> Support | None:
        """Make the call; return the reason if it failed as a whole."""
        known = self._calls.known(_CALL)
        if known is not None:
            return known
        function = self._calls.ask("_nvmlGetFunctionPointer", _CALL, about=_CALL)
        if isinstance(function, Support):
            return function
        code = function(self._handle, c_int(len(self._asked)), byref(self._request))
        return None if code == SUCCESS else self._calls.remember(_CALL, support_of(code))


def _values(answers: Any) -> Iterator[FieldValue]:
    """Decode each field's value by its type. Raises `DeviceLost`."""
    for kind, code, raw in _ANSWER.iter_unpack(answers):
        if code != SUCCESS:
            yield support_of(code), kind
        elif kind in _VALUE:
            yield valid_count(_VALUE[kind].unpack_from(raw)[0]), kind
        else:
            yield Support.INVALID, kind
