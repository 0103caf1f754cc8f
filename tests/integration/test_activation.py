from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

import fake_engine
from ai_otel import activation
from ai_otel.engines.adapter import warn_blocked
from ai_otel.engines.llama_cpp import LlamaCppAdapter
from ai_otel.engines.vllm import VllmAdapter
from isolated import python

ON = {"AI_OTEL_ENABLED": "true"}
PTH = Path(__file__).parents[2] / "src/ai_otel.pth"

SCRIPT = """
import sys
try:
    import vllm
except ModuleNotFoundError:
    pass
from importlib.metadata import entry_points, distributions
emitted = [entry.name for entry in entry_points(group="vllm.stat_logger_plugins")]
dists = [dist.name for dist in distributions() if dist.name == "ai-otel-activation"]
print(emitted, dists, "ai_otel" in sys.modules)
"""


@pytest.fixture
def engine(tmp_path: Path) -> str:
    """A directory from which `vllm` can be imported."""
    folder = tmp_path / "engine"
    folder.mkdir()
    fake_engine.write_package(folder)
    return str(folder)


@pytest.fixture
def hidden() -> Iterator[None]:
    """`sys.path` as it was."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def site_with_pth(tmp_path: Path) -> str:
    (tmp_path / "ai_otel.pth").write_text(PTH.read_text())
    return f"import site; site.addsitedir({str(tmp_path)!r})\n"


# ---------------------------------------------------------------- off and on


def test_off_there_is_nothing_at_all(tmp_path: Path, engine: str) -> None:
    assert python(site_with_pth(tmp_path) + SCRIPT, path=(engine,)).strip() == "[] [] False"


def test_off_even_where_the_directory_is_already_on_the_path(tmp_path: Path) -> None:
    """Below `ai-otel run` a process may switch itself off again."""
    script = "import sys; print('ai_otel.start' in sys.modules, 'wrapt' in sys.modules)"
    assert python(script, path=(activation.DIRECTORY,)).strip() == "False False"


VISIBLE = "['ai_otel'] ['ai-otel-activation'] True"


def test_the_pth_file_makes_the_stat_logger_plugin_visible_with_the_engine(tmp_path: Path, engine: str) -> None:
    assert python(site_with_pth(tmp_path) + SCRIPT, path=(engine,), **ON).strip() == VISIBLE


def test_ai_otel_run_makes_the_stat_logger_plugin_visible(engine: str) -> None:
    assert python(SCRIPT, path=(activation.DIRECTORY, engine), **ON).strip() == VISIBLE


def test_the_path_stays_as_it_is_until_an_engine_is_imported(tmp_path: Path) -> None:
    code = site_with_pth(tmp_path) + f"import sys; print({activation.DIRECTORY!r} in sys.path)"
    assert python(code, **ON).strip() == "False"


def test_on_by_all_ways_at_once_there_is_one_handle(tmp_path: Path, engine: str) -> None:
    code = """
import vllm
import ai_otel, ai_otel.start
from ai_otel.entrypoints import site, vllm_general_plugin, AiOtelInstrumentor
first = ai_otel.start.current()
site(); vllm_general_plugin(); AiOtelInstrumentor().instrument()
print(first is not None, ai_otel.instrument() is first, ai_otel.start.current() is first)
"""
    path = (activation.DIRECTORY, engine)
    assert python(site_with_pth(tmp_path) + code, path=path, **ON).strip() == "True True True"


def test_the_next_sitecustomize_runs_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the next one')\n")
    for environment in ({}, ON):
        reported = python("print('done')", path=(activation.DIRECTORY, str(tmp_path)), **environment)
        assert reported.split("\n")[:2] == ["the next one", "done"]


@pytest.mark.fault(
    "configuration",
    "`ai-otel run` of one environment starts another `ai-otel run`, of a second environment",
    "the `sitecustomize` of both runs once, and the application's own after them",
)
def test_two_installations_do_not_run_each_other_for_ever(tmp_path: Path) -> None:
    other, user = tmp_path / "other", tmp_path / "user"
    shutil.copytree(activation.DIRECTORY, other, ignore=shutil.ignore_patterns("__pycache__"))
    user.mkdir()
    (user / "sitecustomize.py").write_text("print('the next one')\n")
    for path in ((activation.DIRECTORY, str(other)), (str(other), activation.DIRECTORY)):
        assert python("print('done')", path=(*path, str(user)), **ON).split("\n")[:2] == ["the next one", "done"]


def test_an_interpreter_without_us_starts_as_ever(tmp_path: Path) -> None:
    """The path is inherited by every Python below, also by one of another environment."""
    venv.create(tmp_path, with_pip=False)
    done = subprocess.run(
        [tmp_path / "bin/python", "-c", "import sys; print('ai_otel' in sys.modules)"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": activation.DIRECTORY, **ON},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_the_metadata_holds_only_entry_points_without_side_effects() -> None:
    groups = {entry.group for entry in distribution("ai-otel").entry_points}
    assert groups == {"console_scripts", "opentelemetry_instrumentor", "vllm.general_plugins"}


@pytest.mark.usefixtures("hidden")
def test_showing_twice_shows_once() -> None:
    activation.show()
    activation.show()
    assert sys.path.count(activation.DIRECTORY) == 1
    (entry,) = entry_points(group="vllm.stat_logger_plugins", name="ai_otel")
    assert entry.value == "ai_otel.entrypoints:VllmStatLogger"


# ---------------------------------------------------------------- third parties


@pytest.mark.usefixtures("hidden")
def test_adapters_of_other_distributions_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    info = tmp_path / "some_engines-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-engines\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[ai_otel.engines]\ngood = some_engine:Adapter\nabsent = no_such_module:Adapter\nnot_one = some_engine:Other\n"
    )
    (tmp_path / "some_engine.py").write_text("class Adapter:\n    packages = ['engine_a', 'engine_b']\nOther = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = activation.third_party_engines()
    assert (found["good"].adapter, found["good"].packages) == ("some_engine:Adapter", ("engine_a", "engine_b"))
    assert set(found) == {"good"}
    activation.third_party_engines()  # logs nothing again
    assert [message.partition("(")[0] for message in caplog.messages] == [
        "ai-otel: engine adapter absent ",
        "ai-otel: engine adapter not_one ",
    ]


# ---------------------------------------------------------------- variables of the engine that block telemetry


@pytest.mark.parametrize(
    ("environment", "reported"),
    [
        ({}, []),
        ({"VLLM_PLUGINS": "ai_otel"}, []),
        ({"VLLM_PLUGINS": "lora, ai_otel"}, []),
        ({"VLLM_PLUGINS": "lora"}, ["Set VLLM_PLUGINS=lora,ai_otel to observe them."]),
        ({"VLLM_PLUGINS": ""}, ["Set VLLM_PLUGINS=ai_otel to observe them."]),
        ({"VLLM_USE_RUST_FRONTEND": "0"}, []),
        ({"VLLM_USE_RUST_FRONTEND": "1"}, ["or use --otlp-traces-endpoint."]),
        (
            {"VLLM_USE_RUST_FRONTEND": "true", "VLLM_PLUGINS": "lora"},
            ["Set VLLM_PLUGINS=lora,ai_otel to observe them.", "or use --otlp-traces-endpoint."],
        ),
    ],
)
def test_a_plugin_that_vllm_excludes_is_logged_with_the_next_step(
    environment: dict[str, str], reported: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    warn_blocked(VllmAdapter(), environment)
    assert len(caplog.messages) == len(reported)
    assert all(message.endswith(end) for message, end in zip(caplog.messages, reported, strict=True))


def test_variables_of_vllm_do_not_concern_other_engines(caplog: pytest.LogCaptureFixture) -> None:
    warn_blocked(LlamaCppAdapter(), {"VLLM_PLUGINS": "lora", "VLLM_USE_RUST_FRONTEND": "1"})
    assert caplog.messages == []


def test_blocking_variables_are_logged_once_per_process(engine: str) -> None:
    code = """
import importlib, logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
import ai_otel
for _ in range(2):
    ai_otel.instrument()
import vllm
importlib.reload(vllm)
ai_otel.instrument()
"""
    reported = python(code, path=(engine,), VLLM_PLUGINS="lora", VLLM_USE_RUST_FRONTEND="1", OTEL_SDK_DISABLED="true")
    assert reported.count("VLLM_PLUGINS=lora excludes the plug-ins of ai-otel") == 1
    assert reported.count("VLLM_USE_RUST_FRONTEND is on") == 1
