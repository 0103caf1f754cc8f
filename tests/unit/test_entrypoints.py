from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ai_otel import entrypoints, start
from ai_otel.activation import first_engine
from ai_otel.entrypoints import AiOtelInstrumentor, site, vllm_general_plugin
from ai_otel.hooks import guard
from fake_engine import forget, write_package

AT_ONCE = [vllm_general_plugin, AiOtelInstrumentor().instrument]
ENTRY_POINTS = [site, *AT_ONCE]


@pytest.fixture(autouse=True)
def off_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AI_OTEL_ENABLED", raising=False)
    monkeypatch.setattr(entrypoints, "_guard", None)
    monkeypatch.setattr(first_engine, "FRAMEWORKS", ())  # imported here, where a fresh interpreter has none
    path = list(sys.path)
    yield
    start.uninstrument()
    sys.path[:] = path
    forget("vllm", "llama_cpp", "xllamacpp")


@pytest.fixture
def import_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], ModuleType]:
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda: importlib.import_module("vllm")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_OTEL_ENABLED", "true")


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("text", [None, "", "false", "0", "maybe"])
def test_an_entry_point_does_nothing_while_off(
    entry_point: Any, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("AI_OTEL_ENABLED", text)
    assert entry_point() is None
    assert start.current() is None


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("entry_point", AT_ONCE)
def test_an_entry_point_switches_on(entry_point: Any) -> None:
    entry_point()
    first = start.current()
    assert first is not None
    entry_point()
    assert start.current() is first


@pytest.mark.usefixtures("on")
def test_the_start_of_an_interpreter_switches_on_with_the_first_engine(import_engine: Any) -> None:
    site()
    assert start.current() is None
    import_engine()
    first = start.current()
    assert first is not None
    assert "vllm" in first.adapters
    site()
    assert start.current() is first


@pytest.mark.usefixtures("on")
def test_the_start_of_an_interpreter_switches_on_where_an_engine_is_imported(import_engine: Any) -> None:
    import_engine()
    site()
    assert start.current() is not None


@pytest.mark.fault(
    "configuration",
    "a program sets `AI_OTEL_ENABLED=false` in `os.environ` after its start, and then imports an engine",
    "the engine is not observed: the environment is read when the engine is imported",
)
def test_a_program_may_switch_itself_off_before_the_engine(monkeypatch: pytest.MonkeyPatch, import_engine: Any) -> None:
    monkeypatch.setenv("AI_OTEL_ENABLED", "true")
    site()
    monkeypatch.setenv("AI_OTEL_ENABLED", "false")
    import_engine()
    assert start.current() is None


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_an_entry_point_never_raises(entry_point: Any, monkeypatch: pytest.MonkeyPatch, import_engine: Any) -> None:
    """vLLM does not survive a plug-in that does, and OpenTelemetry's loader skips every instrumentor after it."""

    def broken(**_: Any) -> None:
        raise RuntimeError("anything")

    monkeypatch.setattr(start, "instrument", broken)
    entry_point()
    if entry_point is site:
        import_engine()
    assert guard.errors["door"] == 1


@pytest.mark.fault(
    "configuration",
    "ai-otel is uninstalled while a process runs that has not imported an engine yet",
    "the import of an engine succeeds as without ai-otel",
)
@pytest.mark.usefixtures("on")
def test_an_entry_point_survives_that_ai_otel_is_gone(monkeypatch: pytest.MonkeyPatch, import_engine: Any) -> None:
    site()
    for name in ("ai_otel.hooks.guard", "ai_otel.start"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises
    assert import_engine().__version__ == "0.32.0"
    monkeypatch.undo()
    assert start.current() is None


@pytest.mark.usefixtures("on")
def test_bad_settings_do_not_keep_the_server_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, import_engine: Any
) -> None:
    monkeypatch.setenv("AI_OTEL_QUEUE_LIMIT", "-1")
    monkeypatch.setenv("AI_OTEL_NO_SUCH_THING", "1")
    site()
    import_engine()
    vllm_general_plugin()
    assert start.current() is not None
    assert len(caplog.messages) == 2  # one for each, however many entry points are called


@pytest.mark.usefixtures("on")
def test_the_instrumentor_passes_its_providers_on() -> None:
    passed: Any = object()
    instrumentor = AiOtelInstrumentor()
    instrumentor.instrument(tracer_provider=passed, skip_dep_check=True, raise_exception_on_conflict=False)
    handle = start.current()
    assert handle is not None
    assert handle._passed == (passed, None)
    handle.providers = None
    instrumentor.uninstrument()
    assert start.current() is None
    assert instrumentor.instrumentation_dependencies() == ()


@pytest.mark.usefixtures("on")
def test_the_instrumentors_undoing_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("anything")

    monkeypatch.setattr(start, "uninstrument", broken)
    AiOtelInstrumentor().uninstrument()
    monkeypatch.undo()
    assert guard.errors["door"] == 1


def test_the_module_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = entrypoints.Nothing


# ---------------------------------------------------------------- vLLM's stat logger


class StatLoggerBase:
    pass


# As much of vLLM's configuration as is read.
CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(served_model_name="tiny"),
    cache_config=SimpleNamespace(num_gpu_blocks=10, block_size=16),
)


@pytest.fixture
def stat_logger() -> Iterator[Any]:
    names = ("vllm", "vllm.v1", "vllm.v1.metrics", "vllm.v1.metrics.loggers")
    forget(*names)
    sys.modules.update({name: ModuleType(name) for name in names})
    sys.modules["vllm.v1.metrics.loggers"].StatLoggerBase = StatLoggerBase  # type: ignore[attr-defined]
    yield entrypoints.VllmStatLogger
    forget(*names)


def test_the_stat_logger_is_one_of_vllms(stat_logger: Any) -> None:
    assert issubclass(stat_logger, StatLoggerBase)


def test_a_stat_logger_without_us_does_nothing(stat_logger: Any) -> None:
    logger = stat_logger(CONFIG, 0)
    logger.record(object(), object())
    logger.log_engine_initialized()
    logger.record_sleep_state(1, 1)
    assert guard.errors["door"] == 0


def test_a_stat_logger_follows_its_engine(stat_logger: Any) -> None:
    handle = start.instrument(tracer_provider=object(), meter_provider=object())  # type: ignore[arg-type]
    assert "vllm" in handle.adapters
    logger = stat_logger(CONFIG, engine_index=1)
    logger.log_engine_initialized()
    logger.record_sleep_state(1, 1)
    states = {
        labels["ai_otel.state"]: value for labels, value in handle.recorder.counters.values("ai_otel.engine.state")
    }
    assert states == {"awake": 0, "weights_offloaded": 1, "weights_discarded": 0}
    ((labels, capacity),) = handle.recorder.counters.values("ai_otel.kv_cache.capacity")
    assert capacity == 160
    assert labels["ai_otel.engine.index"] == 1
    handle.pipeline._prepare = lambda: None  # type: ignore[method-assign]
    handle.providers = None


def test_an_unreadable_configuration_does_not_stop_vllm(stat_logger: Any) -> None:
    handle = start.instrument(tracer_provider=object(), meter_provider=object())  # type: ignore[arg-type]
    assert "vllm" in handle.adapters
    logger = stat_logger(object(), 0)
    logger.record(object(), object())
    assert guard.errors["door"] == 1
