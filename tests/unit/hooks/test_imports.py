"""Attacks on the import finder: an import goes on as without it, and who waits for a module hears of it once."""

from __future__ import annotations

import copy
import importlib
import importlib.resources
import importlib.util
import inspect
import pickle
import pkgutil
import runpy
import subprocess
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wrapt

from ai_otel.hooks.imports import ImportFinder

NAME = "an_awaited_engine"
SOURCE = "import sys\nvalue = [name for name in ('x',)]\ndef function():\n    return 'source'\n"


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportFinder]:
    """A finder of this test alone; the modules of these tests are forgotten."""
    finders = list(sys.meta_path)
    yield ImportFinder()
    sys.meta_path[:] = finders
    for name in [*sys.modules]:
        if name.partition(".")[0] in {NAME, "another_module", "a_namespace", "beside", "of_the_same_loader"}:
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the path with the package, a module in it, and another module."""
    package = tmp_path / NAME
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (package / "part.py").write_text("from . import function\nwhole = True\n")
    (package / "data.txt").write_text("data")
    (tmp_path / "another_module.py").write_text("before = __import__('sys').modules.get('heard')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class Heard(list[ModuleType]):
    """The modules that were reported; `whole`: whether the code of each had run."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[bool] = []

    def __call__(self, module: ModuleType) -> None:
        self.append(module)
        self.whole.append("function" in object.__getattribute__(module, "__dict__"))


@pytest.fixture
def heard(finder: ImportFinder, folder: Path) -> Heard:
    calls = Heard()
    finder.when_imported(NAME, calls)
    return calls


# ---------------------------------------------------------------- when it is called


def test_a_module_is_reported_once_after_its_code_ran(heard: Heard) -> None:
    module = importlib.import_module(NAME)
    assert heard == [module]
    assert module.function() == "source"
    importlib.import_module(NAME)
    importlib.import_module(f"{NAME}.part")
    assert heard == [module]


def test_a_module_that_is_imported_is_reported_at_once(finder: ImportFinder, folder: Path) -> None:
    module, calls = importlib.import_module(NAME), Heard()
    finder.when_imported(NAME, calls)
    assert calls == [module]


def test_all_who_wait_are_called_also_those_who_come_during_a_call(finder: ImportFinder, folder: Path) -> None:
    calls: list[str] = []

    def first(_: ModuleType) -> None:
        calls.append("first")
        finder.when_imported(NAME, lambda _: calls.append("inside"))
        finder.when_imported(f"{NAME}.part", lambda _: calls.append("part"))

    finder.when_imported(NAME, first)
    finder.when_imported(NAME, lambda _: calls.append("second"))
    importlib.import_module(f"{NAME}.part")
    assert calls == ["first", "inside", "second", "part"]


def test_a_module_of_a_package_can_be_awaited(finder: ImportFinder, folder: Path) -> None:
    calls = Heard()
    finder.when_imported(f"{NAME}.part", calls)
    assert importlib.import_module(NAME)
    assert calls == []
    assert importlib.import_module(f"{NAME}.part").whole
    assert [module.__name__ for module in calls] == [f"{NAME}.part"]


def test_a_search_for_a_module_reports_nothing(heard: Heard) -> None:
    for _ in range(2):
        assert importlib.util.find_spec(NAME) is not None
        assert importlib.util.find_spec(f"{NAME}_absent") is None
    assert heard == []
    importlib.import_module(NAME)
    assert len(heard) == 1


@pytest.mark.fault(
    "engines",
    "an engine's import fails halfway, and the application imports it again",
    "it is observed after the import that succeeds",
)
def test_an_import_that_fails_is_not_reported_and_its_retry_is(heard: Heard, folder: Path) -> None:
    path = folder / NAME / "__init__.py"
    path.write_text("raise OSError('no GPU')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="no GPU"):
            importlib.import_module(NAME)
    assert heard == []
    path.write_text("made_again = True\n")
    importlib.invalidate_caches()
    assert importlib.import_module(NAME).made_again
    assert len(heard) == 1


def test_a_reload_is_not_reported_again(heard: Heard) -> None:
    module = importlib.import_module(NAME)
    assert importlib.reload(module) is module
    assert heard == [module]


def test_a_call_that_raises_leaves_the_others_to_the_next_import(finder: ImportFinder, folder: Path) -> None:
    calls = Heard()

    def interrupted(_: ModuleType) -> None:
        raise KeyboardInterrupt

    finder.when_imported(NAME, interrupted)
    finder.when_imported(NAME, calls)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(NAME)
    module = importlib.import_module(NAME)
    assert calls == [module]


def test_a_module_that_replaces_itself_is_reported_as_what_it_became(heard: Heard, folder: Path) -> None:
    source = "import sys, types\nclass Other(types.ModuleType): pass\nsys.modules[__name__] = Other(__name__)\n"
    (folder / NAME / "__init__.py").write_text(source)
    module = importlib.import_module(NAME)
    assert type(module).__name__ == "Other"
    assert heard == [module]


def test_a_module_loaded_for_one_caller_is_not_reported(heard: Heard) -> None:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert heard == []
    assert importlib.import_module(NAME) in heard


def test_a_name_that_is_blocked_is_not_there(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)
    import_another()
    assert heard == []


# ---------------------------------------------------------------- what a spec shows


@pytest.mark.fault(
    "engines",
    "a library searches for an engine with `importlib.util.find_spec` and does not import it",
    "the engine is not observed; the spec and its loader are those that Python gives without ai-otel",
)
def test_a_spec_is_as_without_us(finder: ImportFinder, folder: Path) -> None:
    without = importlib.util.find_spec(NAME)
    finder.when_imported(NAME, Heard())
    found = importlib.util.find_spec(NAME)
    assert found is not None
    assert without is not None
    assert type(found.loader) is SourceFileLoader
    assert (found.name, found.origin, found.loader_state, found.cached, found.parent, found.has_location) == (
        without.name,
        without.origin,
        without.loader_state,
        without.cached,
        without.parent,
        without.has_location,
    )
    assert found == importlib.util.find_spec(NAME)
    assert found.loader.get_source(NAME) == SOURCE
    assert found.loader.is_package(NAME)
    assert pkgutil.get_data(NAME, "data.txt") == b"data"


def test_a_loader_is_untouched_after_the_import(heard: Heard) -> None:
    module = importlib.import_module(NAME)
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert type(module.__loader__) is SourceFileLoader
    assert set(vars(module.__loader__)) == {"name", "path"}
    assert inspect.getsource(module) == SOURCE
    assert inspect.getsource(module.function).startswith("def function")
    assert (importlib.resources.files(NAME) / "data.txt").read_text() == "data"
    assert [part.name for part in pkgutil.walk_packages(module.__path__)] == ["part"]
    assert module.__loader__ == PathFinder.find_spec(NAME).loader  # type: ignore[union-attr]


def test_a_spec_can_be_pickled_and_copied_and_is_read_without_us(heard: Heard, folder: Path) -> None:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    code = "import pickle, sys; spec = pickle.loads(sys.stdin.buffer.read())\nimport importlib.util\n"
    code += (
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); print(module.function())\n"
    )
    code += "print('ai_otel' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], input=pickle.dumps(spec), capture_output=True, check=True)
    assert done.stdout.decode().split() == ["source", "False"]
    for copied in (copy.copy(spec), copy.deepcopy(spec), copy.copy(spec.loader)):
        assert copied is not None
    deep = copy.deepcopy(spec)
    assert deep.loader is not None
    module = importlib.util.module_from_spec(deep)
    deep.loader.exec_module(module)
    assert module.function() == "source"
    assert heard == []


def test_a_warning_and_a_traceback_are_as_without_us(finder: ImportFinder, folder: Path) -> None:
    source = "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\nraise ValueError('no')\n"
    (folder / NAME / "__init__.py").write_text(source)

    def imported() -> tuple[str, list[str]]:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            try:
                exec(f"import {NAME}", {})
            except ValueError as error:
                return given[0].filename, [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return "", []

    without = imported()
    finder.when_imported(NAME, Heard())
    assert imported() == without
    assert without[0] == "<string>"


def test_a_package_runs_as_a_program(heard: Heard, folder: Path) -> None:
    (folder / NAME / "__main__.py").write_text("ran = __name__\n")
    assert runpy.run_module(NAME, run_name="__main__")["ran"] == "__main__"
    assert len(heard) == 1


# ---------------------------------------------------------------- other finders and loaders


def import_another() -> ModuleType:
    """The import of some other module, never imported before."""
    sys.modules.pop("another_module", None)
    return importlib.import_module("another_module")


class Direct:
    """A finder that finds the package itself, as those of editable installs and typeguard do."""

    def __init__(self, path: list[str] | None = None) -> None:
        self.path = path

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self.path) if name == NAME else None


def test_a_module_of_a_finder_before_it_is_noticed_before_the_next_ones_code(heard: Heard, folder: Path) -> None:
    sys.meta_path.insert(0, Direct())
    (folder / "another_module.py").write_text("import sys; count = len(sys.heard)\n")
    sys.heard = heard  # type: ignore[attr-defined]
    module = importlib.import_module(NAME)
    assert heard == []
    assert import_another().count == 1
    assert heard == [module]
    del sys.heard  # type: ignore[attr-defined]


def test_a_module_of_a_finder_after_it_is_reported_at_once(
    heard: Heard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an editable install, whose finder is the last."""
    sys.meta_path.append(Direct([str(folder)]))
    monkeypatch.setattr(sys, "path", [])
    assert heard == [importlib.import_module(NAME)]


@pytest.mark.parametrize("first", ["wrapt", "ai-otel"])
def test_wrapts_finder_and_this_one_are_both_called(
    first: str, finder: ImportFinder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Heard()
    registrations: list[Callable[[], Any]] = [
        lambda: wrapt.register_post_import_hook(calls, NAME),
        lambda: finder.when_imported(NAME, calls),
    ]
    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "wrapt.importer"]
    importer = sys.modules["wrapt.importer"]
    monkeypatch.setattr(importer, "_post_import_hooks_init", False)
    monkeypatch.setattr(importer, "_post_import_hooks", {})
    for register in registrations if first == "wrapt" else reversed(registrations):
        register()
    module = importlib.import_module(NAME)
    assert calls == [module, module]
    loader = getattr(module.__loader__, "loader", module.__loader__)  # wrapt 1.14 leaves its own around it
    assert set(vars(loader)) == {"name", "path"}


def test_two_of_our_kind_are_both_called(finder: ImportFinder, heard: Heard) -> None:
    second, calls = ImportFinder(), Heard()
    second.when_imported(NAME, calls)
    assert heard == [] == calls
    module = importlib.import_module(NAME)
    import_another()
    assert heard == [module] == calls


def test_an_old_finder_is_left_to_python(heard: Heard) -> None:
    class Old:
        """What finders were before Python 3.4."""

        def find_module(self, *_: Any) -> None:
            return None

    sys.meta_path.insert(1, Old())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # Python 3.10 and 3.11 warn of it, without us too
        module = importlib.import_module(NAME)
        import_another()
        import_another()
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, Old)]
    import_another()
    assert heard == [module]


def test_a_finder_that_raises_raises_to_the_caller(heard: Heard) -> None:
    class Raising:
        def find_spec(self, *_: Any) -> None:
            raise RuntimeError("of the other finder")

    sys.meta_path.insert(1, Raising())
    with pytest.raises(RuntimeError, match="of the other finder"):
        importlib.import_module(NAME)
    assert heard == []


def test_a_finder_taken_off_the_list_comes_back_with_the_next_who_waits(finder: ImportFinder, heard: Heard) -> None:
    sys.meta_path.remove(finder)  # type: ignore[arg-type]
    assert finder.find_spec(NAME) is not None
    finder.when_imported("something_else", Heard())
    importlib.import_module(NAME)
    assert len(heard) == 1


class Slotted:
    """A loader that takes no attribute."""

    __slots__ = ()

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.made = type(self).__name__


class OfClass(Slotted):
    """A loader that is a class, as that of frozen modules."""

    exec_module = classmethod(lambda cls, module: setattr(module, "made", cls.__name__))  # type: ignore[assignment]
    create_module = classmethod(lambda cls, spec: None)  # type: ignore[assignment]


class Shared:
    """A loader of many modules, as that of pytest's assertions."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.made = type(self).__name__


class Proxied(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """A loader around a loader, which passes attributes on."""

    def exec_module(self, module: Any) -> None:
        self.__wrapped__.exec_module(module)


LOADERS = {
    "slots": Slotted(),
    "class": OfClass,
    "shared": Shared(),
    "proxied": Proxied(Shared()),
    "instance": type("Instance", (), {"create_module": lambda *_: None})(),
}
LOADERS["instance"].exec_module = lambda module: setattr(module, "made", "Instance")


@pytest.mark.parametrize("kind", LOADERS)
def test_a_module_of_any_loader_is_made_by_it_and_reported_once(kind: str, heard: Heard) -> None:
    loader: Any = LOADERS[kind]

    class Other:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return ModuleSpec(name, loader) if name in (NAME, "of_the_same_loader") else None

    sys.meta_path.insert(1, Other())
    assert importlib.util.find_spec(NAME) is not None
    assert importlib.import_module("of_the_same_loader").made
    module = importlib.import_module(NAME)
    assert module.made
    assert module.__loader__ is loader
    import_another()
    assert heard == [module]


def test_a_zip_file_has_one_loader_for_all_its_modules(
    finder: ImportFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr(f"{NAME}/__init__.py", SOURCE)
        packed.writestr(f"{NAME}/data.txt", "data")
        packed.writestr("beside.py", "from an_awaited_engine import function\n")
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    calls = Heard()
    finder.when_imported(NAME, calls)
    assert importlib.util.find_spec(NAME) is not None
    assert importlib.import_module("beside").function() == "source"
    module = sys.modules[NAME]
    assert calls == [module]
    assert "exec_module" not in vars(module.__loader__)
    assert inspect.getsource(module.function).startswith("def function")
    assert (importlib.resources.files(NAME) / "data.txt").read_text() == "data"


def test_a_namespace_package_is_noticed_with_the_next_import(finder: ImportFinder, folder: Path) -> None:
    (folder / "a_namespace").mkdir()
    (folder / "a_namespace/part.py").write_text("whole = True\n")
    calls, parts = Heard(), Heard()
    finder.when_imported("a_namespace", calls)
    finder.when_imported("a_namespace.part", parts)
    assert importlib.import_module("a_namespace.part").whole
    assert [module.__name__ for module in (*calls, *parts)] == ["a_namespace", "a_namespace.part"]


def test_a_module_put_there_by_hand_is_noticed_with_the_next_import(heard: Heard) -> None:
    module = sys.modules[NAME] = ModuleType(NAME)
    import_another()
    assert heard == [module]


# ---------------------------------------------------------------- lazy modules


def lazily(name: str) -> ModuleType:
    """The recipe of Python's documentation."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.fault(
    "engines",
    "the application loads an engine with `importlib.util.LazyLoader`",
    "it stays unloaded until it is used, and is observed from then on",
)
def test_a_lazy_module_stays_lazy_until_it_is_used(heard: Heard) -> None:
    module = lazily(NAME)
    import_another()
    assert heard == []
    assert object.__getattribute__(module, "__dict__").get("value") is None
    assert module.function() == "source"
    import_another()
    assert heard == [module]
    assert heard.whole == [True]


def test_a_finder_of_lazy_modules_is_as_good(heard: Heard) -> None:
    class Lazy:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            found = PathFinder.find_spec(name, path) if name == NAME else None
            if found is not None and found.loader is not None:
                found.loader = importlib.util.LazyLoader(found.loader)
            return found

    sys.meta_path.insert(1, Lazy())
    module = importlib.import_module(NAME)
    import_another()
    assert heard == []
    assert module.function() == "source"
    assert heard == [module]
    assert heard.whole == [True]


def test_a_call_that_raises_before_the_modules_code_fails_one_import(finder: ImportFinder, folder: Path) -> None:
    def interrupted(_: ModuleType) -> None:
        raise KeyboardInterrupt

    sys.modules[NAME] = ModuleType(NAME)
    finder.when_imported("another_module", calls := Heard())
    finder._waiting[NAME] = [interrupted]
    with pytest.raises(KeyboardInterrupt):
        import_another()
    assert calls == [import_another()]


# ---------------------------------------------------------------- in the middle of other imports


def test_a_module_half_imported_is_reported_when_it_is_whole(finder: ImportFinder, folder: Path) -> None:
    source = f"import another_module, sys\nsys.when_imported({NAME!r}, sys.heard)\nassert not sys.heard\nwhole = True\n"
    (folder / NAME / "__init__.py").write_text(source)
    calls = Heard()
    sys.heard, sys.when_imported = calls, finder.when_imported  # type: ignore[attr-defined]
    module = importlib.import_module(NAME)
    del sys.heard, sys.when_imported  # type: ignore[attr-defined]
    import_another()
    assert calls == [module]


@pytest.mark.parametrize("half", ["asyncio", "wrapt", "opentelemetry.context"])
def test_what_is_late_waits_for_the_end_of_an_import_that_ai_otel_needs(half: str, heard: Heard) -> None:
    """A call imports what ai-otel needs: in the middle of an import of `asyncio` it would find half of it."""
    module = sys.modules[NAME] = ModuleType(NAME)
    spec: Any = importlib.import_module(half).__spec__
    spec._initializing = True
    import_another()
    assert heard == []
    spec._initializing = False
    import_another()
    assert heard == [module]


def test_before_the_first_foreign_module_a_call_is_made_once(finder: ImportFinder, folder: Path) -> None:
    calls: list[bool] = []
    finder.before_foreign(lambda: calls.append("another_module" in sys.modules))
    for name in ("colorsys", "ai_otel.semconv", "_absent", "absent"):
        sys.modules.pop(name, None) if name == "colorsys" else None
        with pytest.raises(ModuleNotFoundError) if "absent" in name else warnings.catch_warnings():
            importlib.import_module(name)
        assert calls == []
    import_another()
    import_another()
    assert len(calls) == 1


def test_what_is_registered_before_the_first_foreign_module_may_wait_for_it(finder: ImportFinder, folder: Path) -> None:
    calls = Heard()
    finder.before_foreign(lambda: finder.when_imported("another_module", calls))
    assert calls == []
    assert import_another() in calls
