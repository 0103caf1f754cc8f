"""
Asking NVML for numbered values: one call, and in it for each value a return code and a type of its own.

The call as a whole succeeds while single answers fail, and a value's bytes mean nothing without its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ctypes import byref, c_int
from struct import Struct
from typing import Any

from ai_otel.gpu.nvidia.calls import SUCCESS, Calls, support_of
from ai_otel.gpu.source import Support
from ai_otel.gpu.values import counted

_CALL = "nvmlDeviceGetFieldValues"
_ANSWER = Struct("8x16xii8s")
"""`nvmlFieldValue_t`: type, return code and value, after number, scope, time and latency."""
_VALUE = {kind: Struct(code) for kind, code in enumerate("dILQqiH")}
"""`nvmlValueType_t` → how the value is laid out."""

Told = tuple[float | int | Support, int]
"""One answer, and the type that it came in; a plain tuple, because there are a dozen a look."""


class Batch:
    """
    Numbers that are asked for together, without asking again for what this driver does not have.

    The binding writes its request and reads its answers an attribute at a time, which costs ten times the call. So the
    request is kept, given to the function that the binding found, and read as the memory that NVML's ABI says it is.
    """

    def __init__(self, calls: Calls, handle: Any, numbers: Iterable[int], scopes: Mapping[int, int]) -> None:
        self._calls = calls
        self._handle = handle
        self._scopes = {number: scopes.get(number, 0) for number in numbers}
        self._absent: dict[int, Told] = {}
        self._asked: list[int] = []
        self._request: Any = None

    def ask(self) -> Mapping[int, Told]:
        """Every number's answer. Raises `DeviceLost`."""
        if self._request is None:
            self._plan()
        refused = self._call() if self._asked else None
        if refused is not None:
            return self._absent | dict.fromkeys(self._asked, (refused, 0))
        told = {**self._absent, **dict(zip(self._asked, _values(self._request), strict=True))}
        for number in self._asked:
            why = told[number][0]
            if isinstance(why, Support):
                self._calls.remember(number, why)
                self._request = None
        return told

    def plan_anew(self) -> None:
        """At the next call find out again what to ask for: what was refused may be allowed by now."""
        self._request = None

    def _plan(self) -> None:
        known = {number: self._calls.known(number) for number in self._scopes}
        self._absent = {number: (why, 0) for number, why in known.items() if why is not None}
        self._asked = [number for number, why in known.items() if why is None]
        self._request = (self._calls.library.c_nvmlFieldValue_t * len(self._asked))()
        for value, number in zip(self._request, self._asked, strict=True):
            value.fieldId, value.scopeId = number, self._scopes[number]

    def _call(self) -> Support | None:
        """Have the request answered, or say why it is not."""
        known = self._calls.known(_CALL)
        if known is not None:
            return known
        function = self._calls.ask("_nvmlGetFunctionPointer", _CALL, about=_CALL)
        if isinstance(function, Support):
            return function
        code = function(self._handle, c_int(len(self._asked)), byref(self._request))
        return None if code == SUCCESS else self._calls.remember(_CALL, support_of(code))


def _values(answers: Any) -> Iterator[Told]:
    """Each answer by its own type, or why it has none. Raises `DeviceLost`."""
    for kind, code, raw in _ANSWER.iter_unpack(answers):
        if code != SUCCESS:
            yield support_of(code), kind
        elif kind in _VALUE:
            yield counted(_VALUE[kind].unpack_from(raw)[0]), kind
        else:
            yield Support.INVALID, kind
