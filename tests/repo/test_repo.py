"""The rules of this repository that no linter knows: each test is one sentence of CONTRIBUTING.md or of the laws."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import environments
from ai_otel.engines import ENGINES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/ai_otel"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "upstream" not in path.parts)

LINES_PER_MODULE = 350
BROAD = {"Exception", "BaseException"}

# Modules besides settings.py that may read the environment, and why.
READS_ENVIRONMENT = {
    "settings.py": "the one reader",
    "entrypoints.py": "reads the switch at the start of an interpreter, where settings would take too long to import",
    "inputs/environ.py": "has the SDK read other values than the process has",
    "cli/run.py": "passes the environment on to the server that it starts",
}


def test_each_example_of_a_collector_runs_as_it_is_written() -> None:
    """Its backend has no default address, and its queue's default folder needs root."""
    blocks = [
        (page, block)
        for page in (*ROOT.glob("examples/*/README.md"), ROOT / "docs/collector.md")
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        if "ai-otel-collector --config" in block and "--backend otlp " in block
    ]
    assert len(blocks) > 20
    for page, block in blocks:
        for needed in ("pip install 'ai-otel[collector]'", "AI_OTEL_BACKEND_ENDPOINT=", "AI_OTEL_QUEUE_DIR="):
            assert needed in block, page


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def generated(path: Path) -> bool:
    """A generated file says so in its first lines."""
    return "generated" in "".join(path.read_text().splitlines(keepends=True)[:3]).lower()


# ---------------------------------------------------------------- the Makefile


def test_the_makefile_has_at_most_twelve_targets_and_explains_each() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## \S", makefile, flags=re.MULTILINE)
    assert sorted(phony.split()) == sorted(explained)
    assert len(explained) <= 12


def test_every_directory_of_tests_is_a_tier(pytestconfig: pytest.Config) -> None:
    """Or the harness: what is neither has no marker, no place in the order and no line in the summary."""
    tiers = {marker.partition(":")[0] for marker in pytestconfig.getini("markers")}
    directories = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert directories - {"harness"} <= tiers


# ---------------------------------------------------------------- the source


def test_the_version_stands_in_one_place() -> None:
    (version,) = re.findall(r'^__version__ = "(.+)"$', (SOURCE / "version.py").read_text(), flags=re.MULTILINE)
    assigned = [name_of(path) for path in MODULES if re.search(r"^__version__\s*=", path.read_text(), re.MULTILINE)]
    literal = re.compile(rf"""["']{re.escape(version)}["']""")
    written = [name_of(path) for path in MODULES if literal.search(path.read_text())]
    assert assigned == ["version.py"]
    assert written == ["version.py"]
    assert f'"{version}"' not in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert generated(path) or len(path.read_text().splitlines()) <= LINES_PER_MODULE


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_guard_swallows_everything(path: Path) -> None:
    """Elsewhere a broad `except` may read the exception, but must end with `raise`."""
    if name_of(path) != "hooks/guard.py":
        assert [handler.lineno for handler in broad_handlers(path) if not raises_again(handler)] == []


def broad_handlers(path: Path) -> list[ast.ExceptHandler]:
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    return [handler for handler in handlers if handler.type is None or BROAD & names_in(handler.type)]


def names_in(expression: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_settings_reads_the_environment(path: Path) -> None:
    if name_of(path) not in READS_ENVIRONMENT:
        assert not re.search(r"\bos\.(environ|getenv|putenv)|from os import .*(environ|getenv)", path.read_text())


CONTRACT_ENGINES = sorted(path.stem for path in (SOURCE / "schema/engines").glob("*.yaml"))


@pytest.mark.parametrize("engine", CONTRACT_ENGINES)
def test_an_engine_has_its_six_places_all_of_one_name(engine: str) -> None:
    """One without Python hooks has five, and its schema says why."""
    adapter = [SOURCE / f"engines/{engine}.py", SOURCE / f"engines/{engine}/__init__.py"]
    hooks = yaml.safe_load((SOURCE / f"schema/engines/{engine}.yaml").read_text())["python_hooks"]
    assert any(path.exists() for path in adapter) == hooks == (engine in ENGINES)
    places = [f"tests/engines/{engine}", f"examples/{engine}/README.md", f"docs/engines/{engine}.md"]
    places += [f"src/ai_otel/schema/inventory/{engine}.tsv", f"collector-config/generated/engines/{engine}.yaml"]
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_adapter_has_a_schema() -> None:
    assert set(ENGINES) <= set(CONTRACT_ENGINES)


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(environments.build_wheel(tmp_path_factory.mktemp("dist")))


def test_the_wheel_is_pure_python(wheel: zipfile.ZipFile) -> None:
    assert str(wheel.filename).endswith("-py3-none-any.whl")
    assert {Path(name).suffix for name in wheel.namelist()} <= {".py", ".pth", ".typed", ".yaml", ".json", ".txt", ""}


def test_the_wheel_holds_only_the_library_and_its_entry_point(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ai_otel", "ai_otel.pth"}
    assert {"ai_otel/__init__.py", "ai_otel/py.typed"} <= set(names)
    assert [name for name in names if re.search(r"upstream|inventory|/tests?/|\.lock$", name)] == []


def test_the_wheel_holds_what_configurations_are_made_of(wheel: zipfile.ZipFile) -> None:
    packed = {name.removeprefix("ai_otel/collector_config/") for name in wheel.namelist()}
    parts = [
        path
        for kind in ("roles", "generated/engines", "features", "generated/features", "backends")
        for path in _parts(kind)
    ]
    assert set(parts) <= packed
    assert len(parts) > 30


def _parts(kind: str) -> list[str]:
    folder = ROOT / "collector-config"
    return [path.relative_to(folder).as_posix() for path in (folder / kind).glob("*.yaml")]


def test_the_wheel_requires_five_packages_and_no_engine(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if re.fullmatch(r"ai_otel-[^/]*\.dist-info/METADATA", name)]
    metadata = Parser().parsestr(wheel.read(name).decode())
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {requirement.name for requirement in requirements if requirement.marker is None} == {
        "opentelemetry-api",
        "opentelemetry-exporter-otlp",
        "opentelemetry-sdk",
        "prometheus-client",
        "wrapt",
    }
    # "instruments" would make OpenTelemetry's loader judge every engine by the requirements of one.
    assert set(metadata.get_all("Provides-Extra", [])) == {"amd", "collector", "demo", "intel", "nvidia"}


# ---------------------------------------------------------------- the start of an interpreter


# Importing these changes the host: CUDA starts, prometheus_client freezes its multiprocess mode, the rest costs time.
NEVER_AT_START = ("torch", "prometheus_client", "vllm", "sglang", "opentelemetry.sdk", "grpc")


@pytest.mark.parametrize("switched_on", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("statement", ["pass", "import ai_otel"])
def test_starting_an_interpreter_loads_nothing_that_changes_the_host(switched_on: bool, statement: str) -> None:
    loaded = modules_after(statement, switched_on)
    assert [name for name in NEVER_AT_START if name in loaded] == []


def test_without_the_switch_nothing_of_ai_otel_is_loaded() -> None:
    loaded = modules_after("pass", switched_on=False)
    assert [name for name in loaded if name.partition(".")[0] in {"ai_otel", "wrapt", "opentelemetry"}] == []


def modules_after(statement: str, switched_on: bool) -> set[str]:
    """Start a fresh interpreter of this environment, and list what it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"],
        env={"PATH": "/usr/bin:/bin"} | ({"AI_OTEL_ENABLED": "true"} if switched_on else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())
