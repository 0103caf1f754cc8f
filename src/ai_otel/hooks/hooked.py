"""The function that stands in place of a hooked one: it copies and pickles like the original."""

from __future__ import annotations

import copy
import pkgutil
from types import ModuleType
from typing import Any

import wrapt


class _Importable:
    """What the hooked functions of all kinds share: they copy and pickle as the originals do, by name."""

    __wrapped__: Any

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = getattr(self.__wrapped__, "__self__", None)
        if owner is None or isinstance(owner, (ModuleType, type)):
            return self
        return getattr(copy.deepcopy(owner, memo), self.__wrapped__.__name__)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """Return only names of the standard library: who unpickles need not have ai-otel."""
        owner = getattr(self.__wrapped__, "__self__", None)
        if owner is None or isinstance(owner, ModuleType):
            return pkgutil.resolve_name, (f"{self.__wrapped__.__module__}:{self.__wrapped__.__qualname__}",)
        return getattr, (owner, self.__wrapped__.__name__)


class _HookedMethod(_Importable, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    """A hooked function on its instance or class."""


class HookedFunction(_Importable, wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """A function with a hook."""

    __bound_function_wrapper__ = _HookedMethod
