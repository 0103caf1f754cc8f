"""Which engines and hooks are found, without importing any engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ai_otel.doctor.engines import Installed, check_engines, installed_engines
from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.source import Absent, InstalledSource, Unreadable, package_folders
from ai_otel.engines import EngineEntry
from ai_otel.hooks.point import HookPoint, Rung

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution into an environment of its own: its files, its metadata, and nothing that imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ai_otel.doctor.engines._carriers", dict)

    def put(version: str = "1.5", **files: str) -> Path:
        for name, text in {"__init__": "raise RuntimeError('imported')", **files}.items():
            path = tmp_path / "toy" / f"{name.replace('__', '@').replace('_', '/').replace('@', '__')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        metadata = tmp_path / f"toy_engine-{version}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: toy-engine\nVersion: {version}\n")
        return tmp_path / "toy"

    yield put
    assert "toy" not in sys.modules


def point(target: str, *reads: str, versions: str = ">=1,<2") -> HookPoint:
    return HookPoint(f"toy.{target}", reads, versions, Rung.INTERNAL, "Here it happens.")


class ToyAdapter:
    name = "toy"
    packages = ("toy",)
    distributions = ("toy-engine",)
    hooks: tuple[HookPoint, ...] = ()
    tested = ("1.0", "1.9")


TOY = {"toy": EngineEntry(f"{__name__}:ToyAdapter", ("toy",))}


def examined(*hooks: HookPoint) -> list[Finding]:
    found = [each for each in installed_engines(TOY) if isinstance(each, Installed)]
    for each in found:
        each.adapter.hooks = hooks
    return list(check_engines(found))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest imports test modules under a name of its own; the adapter is found by it.
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, sys.modules["__main__"]))


ENGINE = """
class Base:
    def inherited(self, prompt, *, priority=0): ...

class Engine(Base):
    async def generate(self, prompt, request_id): ...
    def anything(self, **options): ...
"""


def test_a_hook_is_here_changed_missing_or_for_another_version(install: Install) -> None:
    install(engine=ENGINE)
    found = examined(
        point("engine:Engine.generate", "prompt", "request_id"),
        point("engine:Engine.inherited", "prompt", "priority"),
        point("engine:Engine.anything", "any_name"),
        point("engine:Engine.generate", "trace_headers"),
        point("engine:Engine.gone"),
        point("gone:Engine.generate"),
        point("engine:Engine.generate", versions=">=2"),
    )
    assert [each.details["state"] for each in found[1:]] == [
        "here", "here", "here", "changed", "missing", "missing", "out of range",
    ]  # fmt: skip
    assert [each.level.value for each in found[1:]] == ["ok", "ok", "ok", "wrong", "wrong", "wrong", "note"]
    assert found[4].says == "changed: it takes no trace_headers"
    assert found[1].details == {
        "target": "toy.engine:Engine.generate",
        "rung": "internal",
        "versions": ">=1,<2",
        "state": "here",
        "why": "Here it happens.",
    }


@pytest.mark.parametrize(
    ("version", "level", "says"),
    [
        ("1.5+cpu", Level.OK, "toy-engine 1.5+cpu, tested from 1.0 to 1.9"),
        ("1.9.1", Level.NOTE, "this one is newer"),
        ("0.9", Level.WRONG, "nothing is observed"),
        ("2.0", Level.WRONG, "nothing is observed"),
    ],
)
def test_the_version_is_judged_by_tests_and_hooks(install: Install, version: str, level: Level, says: str) -> None:
    install(version, engine=ENGINE)
    found = examined(point("engine:Engine.generate"))[0]
    assert found.level is level
    assert says in found.says


def test_a_hook_into_a_package_that_is_not_installed_is_not_missing(install: Install) -> None:
    """An adapter may cover several packages of one engine."""
    install(engine=ENGINE)
    elsewhere = HookPoint("other_toy.engine:Engine.generate", (), "", Rung.PUBLIC, "Elsewhere.")
    assert [each.subject for each in examined(point("engine:Engine.generate"), elsewhere)] == [
        "toy",
        "toy Engine.generate",
    ]


def test_a_folder_of_that_name_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone of the engine's repository is not an installation."""
    (tmp_path / "toy").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folders("toy") == []
    assert list(installed_engines(TOY)) == []


def test_an_adapter_that_cannot_be_loaded_is_reported(install: Install) -> None:
    install()
    (found,) = installed_engines({"toy": EngineEntry("ai_otel.engines.no_such:Adapter", ("toy",))})
    assert isinstance(found, Finding)
    assert found.level is Level.WRONG
    assert "no_such" in found.says


# ---------------------------------------------------------------- reading source


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("def run(a): ...", "from toy.inner import run"),
        ("def walk(a): ...", "from .inner import walk as run"),
        ("def run(a): ...", "from toy.inner import *"),
        ("def run(a): ...", "try:\n    from .missing import run\nexcept ImportError:\n    from .inner import run"),
        ("", "def run(b): ...\ndef run(a): ..."),
        ("", "if True:\n    async def run(a): ..."),
    ],
)
def test_a_function_is_found_wherever_it_is_defined(install: Install, inner: str, outer: str) -> None:
    install(inner=inner, outer=outer)
    assert InstalledSource().function("toy.outer:run").names == {"a"}


def test_a_class_is_followed_to_its_bases_in_other_files(install: Install) -> None:
    install(
        parts_base="class Base:\n    def run(self, a): ...",
        outer="from .parts.base import Base\nclass Engine(Base[int]): ...",
    )
    assert InstalledSource().function("toy.outer:Engine.run").lacks(("a", "b")) == ["b"]


def test_a_value_that_is_no_def_exists_and_takes_anything(install: Install) -> None:
    install(outer="class Engine:\n    run = deprecated(other)")
    assert InstalledSource().function("toy.outer:Engine.run").lacks(("a",)) == []


def test_a_compiled_module_is_unreadable_and_not_absent(install: Install) -> None:
    (install() / "core.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    with pytest.raises(Unreadable, match="toy.core is compiled"):
        InstalledSource().function("toy.core:run")
    with pytest.raises(Absent, match="no module toy.gone"):
        InstalledSource().function("toy.gone:run")
