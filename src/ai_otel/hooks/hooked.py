"""
What stands in place of a hooked function: it is called, bound, copied, pickled and inspected like the original.

A function written in Python is replaced by another one. It is bound and called by the interpreter itself, at a third of
what a proxy costs. `wrapt` proxies everything else: built-in functions, callable objects, what other libraries wrapped.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pkgutil
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import wrapt

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""
`wrapper(call, instance, args, kwargs)` makes the call, `call(*args, **kwargs)`, and returns what that returns. The
instance is the first of `args`: the object of a method, the class of a class method; `None` for any other function.
"""

_KINDS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def hooked(original: Any, wrapper: Wrapper, *, in_class: bool) -> Any:
    """Return what replaces `original`, which is found in a class or elsewhere."""
    kind = type(original)
    method = in_class and kind is not staticmethod
    function = original.__func__ if kind in (staticmethod, classmethod) else original
    if type(function) is not FunctionType or (function.__code__.co_flags & _KINDS and not _FLAGS_ONLY_DESCRIBE):
        return HookedFunction(original, _with_instance(wrapper) if method else wrapper)
    replacement = _replacement(function, wrapper, method=method)
    return kind(replacement) if kind is not FunctionType else replacement


def _replacement(original: FunctionType, wrapper: Wrapper, *, method: bool) -> FunctionType:
    # Neither may use a global name: their globals are those of the original.
    def hooked_method(*args: Any, **kwargs: Any) -> Any:
        if not args:
            return original(**kwargs)  # Python's error, or an instance that is passed by its name
        return wrapper(original, args[0], args, kwargs)

    def hooked_function(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, None, args, kwargs)

    chosen = hooked_method if method else hooked_function
    code = chosen.__code__.replace(co_flags=chosen.__code__.co_flags | original.__code__.co_flags & _KINDS)
    made = FunctionType(code, original.__globals__, original.__name__, None, chosen.__closure__)
    functools.update_wrapper(made, original)
    # For those who do not follow `__wrapped__`, such as `inspect.getfullargspec`.
    made.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return made


def _flags_only_describe() -> bool:
    """
    Whether the flags of a code object only say what kind of function it is, and do not make it one.

    They decide before Python 3.11: a function that returns a coroutine could not say that it does.
    """

    def probe() -> None: ...

    made = FunctionType(probe.__code__.replace(co_flags=probe.__code__.co_flags | inspect.CO_GENERATOR), {})
    return made() is None


_FLAGS_ONLY_DESCRIBE = _flags_only_describe()


def _with_instance(wrapper: Wrapper) -> Wrapper:
    """`wrapt` binds a method before it calls the wrapper: pass the instance as the first argument all the same."""

    def bound(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def call(_instance: Any, /, *args: Any, **kwargs: Any) -> Any:
            return wrapped(*args, **kwargs)

        return wrapper(call, instance, (instance, *args), kwargs)

    return bound


class Importable:
    """What the proxies of all kinds share: they copy and pickle as the originals do, by name."""

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


class _HookedMethod(Importable, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    """A hooked function on its instance or class."""


class HookedFunction(Importable, wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """A proxy with a hook."""

    __bound_function_wrapper__ = _HookedMethod
