"""
Calls functions when a module has been imported.

A finder on `sys.meta_path` asks the finders after itself for the module's spec and returns that spec, with the loader
that they chose. Only the loader's `exec_module` is replaced, on that one object and until it is called, so that
`inspect`, `importlib.resources` and everything else that reads a spec sees what it would see without ai-otel, and a
spec that is asked for and not used has no effect.

While a finder is asked, Python holds the lock of all imports: nothing is imported and no function is called here before
the loader runs.

This module is imported at the start of every interpreter where ai-otel is on: it imports nothing that is not loaded.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Call = Callable[[ModuleType], object]


class ImportFinder:
    """
    Knows who waits for which module.

    A module that another way brought into `sys.modules` (a finder before this one, a namespace package, a loader
    without attributes of its own, plain assignment) is noticed at a later import of any module, before its code runs.
    There is no lock: a fork could keep it locked. Each entry is taken out by one thread before it is called.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Call]] = {}
        self._before_foreign: list[Callable[[], object]] = []
        self._executing: set[str] = set()
        self._executed: set[str] = set()
        """Modules whose code has run, and whose import is not quite over."""

    def when_imported(self, name: str, call: Call) -> None:
        """Call `call(module)` once the module is imported, at once if it is."""
        if self._is_ready(name):
            call(sys.modules[name])
            return
        self._waiting.setdefault(name, []).append(call)
        self._enter()
        if self._is_ready(name):  # another thread's import ended meanwhile
            self._call(name)

    def before_foreign(self, call: Callable[[], object]) -> None:
        """Call `call()` before the code of the next module runs that is imported and is not the standard library's."""
        self._before_foreign.append(call)
        self._enter()

    def _enter(self) -> None:
        if not any(finder is self for finder in sys.meta_path):
            sys.meta_path.insert(0, self)

    # What Python calls.

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the finders after this one, if a call waits for this module or an earlier one."""
        if name not in self._waiting and not (self._before_foreign and _is_foreign(name)) and not self._late():
            return None
        spec = self._found(name, path, target)
        if spec is not None:
            self._listen(spec.loader)
        return spec

    def _found(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        places = [place for place, finder in enumerate(finders) if finder is self]
        for finder in finders[places[-1] + 1 if places else 0 :]:
            if not hasattr(finder, "find_spec"):
                return None  # of the old kind, which Python itself asks
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def _listen(self, loader: Any) -> None:
        """Have `loader.exec_module` call back, unless its class does not have one, or the object cannot hold one."""
        if isinstance(loader, type) or not hasattr(type(loader), "exec_module"):
            return
        try:
            if "exec_module" not in object.__getattribute__(loader, "__dict__"):
                object.__setattr__(loader, "exec_module", _Execution(self, loader))
        except (AttributeError, TypeError):
            return

    # Before and after a module's code runs.

    def begin(self, name: str) -> None:
        """Make the calls that are due."""
        self._executing.add(name)
        late = self._late()
        if (late or self._before_foreign) and _can_import():
            while self._before_foreign:
                self._before_foreign.pop()()
            for each in late:
                self._call(each)

    def fail(self, name: str) -> None:
        """The module's code raised, or did not run."""
        self._executing.discard(name)

    def end(self, name: str) -> None:
        """Make the calls that wait for the module."""
        self._executing.discard(name)
        if sys.modules.get(name) is None:
            return  # loaded by hand, for its caller alone
        self._executed.add(name)
        try:
            self._call(name)
        finally:
            self._executed.discard(name)

    def postpone(self, name: str, module: ModuleType) -> None:
        """The module's code runs when it is used first: `importlib.util.LazyLoader` has put its own loader there."""
        self._executing.discard(name)
        self._listen(object.__getattribute__(module, "__spec__").loader)

    def _call(self, name: str) -> None:
        calls = self._waiting.pop(name, [])
        try:
            while calls:
                calls.pop(0)(sys.modules[name])
        finally:
            if calls:  # a signal handler of the application raised
                self._waiting.setdefault(name, []).extend(calls)

    def _late(self) -> list[str]:
        return [name for name in self._waiting.keys() & sys.modules.keys() if self._is_ready(name)]

    def _is_ready(self, name: str) -> bool:
        module = sys.modules.get(name)
        if module is None or name in self._executing or is_lazy(module):
            return False
        return name in self._executed or not getattr(_spec_of(module), "_initializing", False)


class _Execution:
    """What stands for the `exec_module` of one loader, once."""

    __slots__ = ("_finder", "_loader", "_original")

    def __init__(self, finder: ImportFinder, loader: Any) -> None:
        self._finder = finder
        self._loader = loader
        self._original: Callable[[ModuleType], object] = loader.exec_module

    def __call__(self, module: ModuleType) -> None:
        own = object.__getattribute__(self._loader, "__dict__")
        if own.get("exec_module") is self:
            own.pop("exec_module", None)  # not `del`: modules of one zip file share a loader
        name, lazy = getattr(_spec_of(module), "name", ""), is_lazy(module)
        try:
            self._finder.begin(name)
            self._original(module)
        except BaseException:
            self._finder.fail(name)
            raise
        if is_lazy(module) and not lazy:
            self._finder.postpone(name, module)
        else:
            self._finder.end(name)

    # As if there were nothing: loaders are compared and copied with their attributes.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Execution)

    def __hash__(self) -> int:
        return hash(_Execution)

    def __reduce__(self) -> Any:
        return getattr, (self._loader, "exec_module")


# Python leaves the frames of its import system out of tracebacks, and out of the levels of `warnings.warn`. It knows
# them by the name of their file. With another name there, a warning of the module would be charged to ai-otel.
_Execution.__call__.__code__ = _Execution.__call__.__code__.replace(co_filename="<frozen importlib._bootstrap>")


def is_lazy(module: object) -> bool:
    """Whether the module's code has not run yet, and runs as soon as an attribute is read."""
    utilities = sys.modules.get("importlib.util")
    return utilities is not None and type(module) is getattr(utilities, "_LazyModule", None)


def _spec_of(module: object) -> object:
    try:
        return object.__getattribute__(module, "__spec__")  # reading it as usual would load a lazy module
    except AttributeError:
        return None


_OWN = frozenset({"ai_otel", "importlib_metadata", "opentelemetry", "typing_extensions", "wrapt"})
"""Packages outside the standard library that are imported when ai-otel starts."""


def _is_foreign(name: str) -> bool:
    """Whether it is a top-level module that ai-otel does not import itself. Those with `_` belong to installers."""
    return "." not in name and name not in _OWN and name not in sys.stdlib_module_names and not name.startswith("_")


def _can_import() -> bool:
    """
    Whether no module that ai-otel imports is half imported.

    A function that is called in the middle of an import of `asyncio` would import what needs all of `asyncio`. It waits
    for a later import then.
    """
    half = [name for name, module in [*sys.modules.items()] if getattr(_spec_of(module), "_initializing", False)]
    tops = {name.partition(".")[0] for name in half}
    return tops.isdisjoint(_OWN) and tops.isdisjoint(sys.stdlib_module_names)


IMPORTS = ImportFinder()
"""The finder of this process. It joins `sys.meta_path` when a call waits for a module."""
