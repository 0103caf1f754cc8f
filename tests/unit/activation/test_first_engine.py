"""What waits at the start of an interpreter, and which packages it waits for."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_otel import activation
from ai_otel.activation import first_engine
from ai_otel.engines import ENGINES
from ai_otel.hooks import guard
from ai_otel.hooks.imports import ImportFinder
from fake_engine import forget, write_package

ADAPTER = "class Adapter:\n    packages = ['engine_of_others']\n"


@pytest.fixture(autouse=True)
def waiting_for_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As at the start of an interpreter whose path has one directory more."""
    monkeypatch.setattr(first_engine, "IMPORTS", ImportFinder())
    monkeypatch.setattr(first_engine, "_start", None)
    monkeypatch.setattr(first_engine, "_pid", None)
    monkeypatch.setattr(first_engine, "FRAMEWORKS", ("a_framework.app",))  # the real ones are imported here
    monkeypatch.syspath_prepend(tmp_path)
    # The finder of this process may wait for the same packages, and comes before the one of the test.
    before = list(sys.meta_path)
    sys.meta_path[:] = [finder for finder in before if not isinstance(finder, ImportFinder)]
    yield
    sys.meta_path[:] = before
    forget("a_framework", "a_framework.app", "vllm", "llama_cpp", "xllamacpp")
    forget("unrelated", "engine_of_others", "an_adapter", "others_adapter")


@pytest.fixture
def started() -> list[str]:
    """One entry for each start."""
    starts: list[str] = []
    first_engine.wait(lambda: starts.append("start"))
    return starts


def offer(folder: Path, value: str = "an_adapter:Adapter", source: str = ADAPTER, *, name: str = "others") -> None:
    info = folder / f"{name.replace('others', 'some')}_engines-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {info.name.partition('-')[0]}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[ai_otel.engines]\n{name} = {value}\n")
    (folder / f"{value.partition(':')[0]}.py").write_text(source)


@pytest.mark.parametrize("package", [package for entry in ENGINES.values() for package in entry.packages])
def test_each_package_of_each_engine_starts_it(package: str, started: list[str], tmp_path: Path) -> None:
    write_package(tmp_path, package)
    write_package(tmp_path, "unrelated")
    sys.modules.pop(package, None)
    importlib.import_module("unrelated")
    assert started == []
    importlib.import_module(package)
    assert started == ["start"]


def test_what_serves_http_starts_it(started: list[str], tmp_path: Path) -> None:
    write_package(tmp_path, "a_framework")
    (tmp_path / "a_framework/app.py").write_text("")
    importlib.import_module("a_framework")
    assert started == []
    importlib.import_module("a_framework.app")
    assert started == ["start"]


def test_who_waits_first_is_called(started: list[str], tmp_path: Path) -> None:
    first_engine.wait(lambda: started.append("second"))
    write_package(tmp_path)
    importlib.import_module("vllm")
    assert started == ["start"]


def test_after_an_end_nothing_starts_until_it_waits_again(started: list[str], tmp_path: Path) -> None:
    offer(tmp_path)
    for name in ("vllm", "unrelated", "engine_of_others", "llama_cpp"):
        write_package(tmp_path, name)
    first_engine.stop_waiting()
    for name in ("vllm", "unrelated", "engine_of_others"):
        importlib.import_module(name)
    assert started == []
    first_engine.wait(lambda: started.append("again"))
    assert started == ["again"]


# ---------------------------------------------------------------- engines of other distributions


@pytest.mark.parametrize("before", [True, False], ids=["after another import", "as the first import"])
def test_an_engine_of_another_distribution_starts_it(before: bool, started: list[str], tmp_path: Path) -> None:
    offer(tmp_path)
    write_package(tmp_path, "engine_of_others")
    write_package(tmp_path, "unrelated")
    if before:
        importlib.import_module("unrelated")
        assert started == []
    importlib.import_module("engine_of_others")
    assert started == ["start"]


def test_adapters_are_loaded_only_where_a_distribution_offers_one(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(activation, "third_party_engines", lambda: asked.append("asked") or {})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    write_package(tmp_path, "unrelated")
    importlib.import_module("unrelated")
    assert asked == []


@pytest.mark.fault(
    "engines",
    "an adapter of another distribution raises when it is imported",
    "the application's import goes on, and other engines are observed; one log line names the adapter",
)
@pytest.mark.parametrize("source", ["raise RuntimeError('no')\n", "import no_such_module\n"])
def test_an_adapter_that_raises_does_not_fail_the_applications_import(
    source: str, started: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, source=source)
    offer(tmp_path, "others_adapter:Adapter", name="good")
    write_package(tmp_path, "unrelated")
    write_package(tmp_path, "engine_of_others")
    assert importlib.import_module("unrelated").__version__
    (message,) = caplog.messages
    assert "others" in message
    assert set(activation.third_party_engines()) == {"good"}
    assert len(caplog.messages) == 1
    assert started == []
    importlib.import_module("engine_of_others")
    assert started == ["start"]


@pytest.mark.fault(
    "engines",
    "the metadata of an installed distribution cannot be read",
    "the application's import goes on, and the engines of ai-otel itself are observed; it is logged once",
)
def test_metadata_that_cannot_be_read_costs_no_engine(
    started: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path)
    (tmp_path / "some_engines-1.dist-info/entry_points.txt").write_bytes(b"[ai_otel.engines]\nothers = \xff\xfe:A\n")
    write_package(tmp_path)
    assert importlib.import_module("vllm").__version__
    assert started == ["start"]
    assert activation.third_party_engines() == {}
    assert len(caplog.messages) == 1
    assert guard.errors["find engines"] == 2


@pytest.mark.fault(
    "configuration",
    "the application has put into `sys.path` what is no text, or no name of a file",
    "its imports go on, and engines are observed",
)
@pytest.mark.parametrize("entry", [Path("/tmp"), b"/tmp", 3, None, "a\0b", "\ud800"], ids=repr)
def test_no_entry_of_the_path_fails_the_applications_import(entry: Any, started: list[str], tmp_path: Path) -> None:
    write_package(tmp_path, "unrelated")
    write_package(tmp_path)
    sys.path.append(entry)
    try:
        assert importlib.import_module("unrelated").__version__
        assert importlib.import_module("vllm").__version__
    finally:
        sys.path.remove(entry)
    assert started == ["start"]


@pytest.mark.fault(
    "engines",
    "an adapter of another distribution names as packages what is no name",
    "the application's import goes on; one log line names the adapter",
)
def test_packages_that_are_no_names_are_no_engine(
    started: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offer(tmp_path, source="class Adapter:\n    packages = [['engine_of_others']]\n", name="others-unnamed")
    write_package(tmp_path, "unrelated")
    assert importlib.import_module("unrelated").__version__
    (message,) = caplog.messages
    assert "others" in message
    assert started == []


GROUP = "[ai_otel.engines]\na = b:C\n"
OTHER = "[console_scripts]\na = b:C\n"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_metadata_of_every_kind_is_found(tmp_path: Path) -> None:
    put(tmp_path / "none/a-1.dist-info/entry_points.txt", OTHER)
    (tmp_path / "none/b-1.dist-info").mkdir()
    (tmp_path / "none/c-1.egg-info").write_text("old")
    put(tmp_path / "none/d.py/entry_points.txt", GROUP)
    put(tmp_path / "wheel/a-1.dist-info/entry_points.txt", GROUP)
    put(tmp_path / "develop/a.egg-info/entry_points.txt", OTHER + GROUP)
    put(tmp_path / "a-1.egg/EGG-INFO/entry_points.txt", GROUP)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("a.py", "")
    found = {
        name: activation.may_offer_engines([str(tmp_path / name)])
        for name in ("none", "wheel", "develop", "a-1.egg", "packed.zip", "absent")
    }
    assert found == {
        "none": False,
        "wheel": True,
        "develop": True,
        "a-1.egg": True,
        "packed.zip": True,
        "absent": False,
    }
    assert activation.may_offer_engines([str(tmp_path / "none"), str(tmp_path / "wheel")])


def test_the_zip_file_of_the_standard_library_has_no_distributions(tmp_path: Path) -> None:
    """Every interpreter has it on its path, and few have the file."""
    assert not activation.may_offer_engines([path for path in sys.path if Path(path).suffix == ".zip"])
