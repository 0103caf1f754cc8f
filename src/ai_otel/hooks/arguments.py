"""The arguments of a hooked call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


class Arguments:
    """The arguments of one call, read by parameter name wherever the caller put them."""

    __slots__ = ("_args", "_kwargs", "_positions")

    def __init__(self, positions: Mapping[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._positions = positions
        self._args = args
        self._kwargs = kwargs

    def get(self, name: str, default: Any = None) -> Any:
        """The value passed for `name`, or `default` where the caller left it out."""
        if name in self._kwargs:
            return self._kwargs[name]
        position = self._positions.get(name)
        if position is not None and position < len(self._args):
            return self._args[position]
        return default

    def exchanged(self, name: str, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments; `value`, unless it is `None`, stands where the caller passed `name`."""
        if value is None:
            return self._args, self._kwargs
        if name in self._kwargs:
            return self._args, {**self._kwargs, name: value}
        position = self._positions[name]
        return (*self._args[:position], value, *self._args[position + 1 :]), self._kwargs

    def with_keywords(self, added: Mapping[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments, and those of `added` that the caller did not pass in any way."""
        absent = {str(name): value for name, value in added.items() if self.get(name, _ABSENT) is _ABSENT}
        return {**absent, **self._kwargs}
