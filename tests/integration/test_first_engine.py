"""From the start of an interpreter to the first engine: in threads, in forked children, and with a real export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fake_engine
from ai_otel import activation
from harness.telemetry.sink import listening
from isolated import python

ON = {"AI_OTEL_ENABLED": "true", "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


@pytest.fixture
def packages(tmp_path: Path) -> str:
    """A directory with an engine that another distribution observes, a package `vllm`, and a slow one."""
    (tmp_path / f"{fake_engine.MODULE}.py").write_text(fake_engine.SOURCE)
    info = tmp_path / "fake_engine_adapter-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine-adapter\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ai_otel.engines]\nfake = fake_engine:FakeAdapter\n")
    fake_engine.write_package(tmp_path)
    fake_engine.write_package(tmp_path, "llama_cpp", source="import time\ntime.sleep(0.2)\n")
    return str(tmp_path)


SERVE = """
import asyncio, os, sys

def serve():
    import fake_engine_server, fake_engine
    asyncio.run(fake_engine.collect(fake_engine_server.Server().generate("a b")))
"""

FORKS = {
    "here": "serve(); print(os.getpid())",
    "fork": """
import ai_otel
child = os.fork()
if child == 0:
    serve()
    sys.modules["ai_otel.start"].current().flush(20)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(child)
""",
    # Such a child exports by itself when it ends, though its parent has never imported an engine.
    "pool": """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=serve)
child.start(); child.join()
assert child.exitcode == 0
print(child.pid)
""",
}


@pytest.mark.parametrize("where", FORKS)
def test_the_first_engine_of_a_process_or_of_its_child_is_observed(where: str, packages: str) -> None:
    """The engine is another distribution's, so all of it is in time: the search, the adapter and the hooks."""
    with listening() as sink:
        path = (activation.DIRECTORY, packages)
        said = python(SERVE + FORKS[where], path=path, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url, **ON)
        (span,) = [span for span in sink.spans if span.name == "chat tiny"]
    assert span.resource["process.pid"] == int(said)


def test_a_parent_that_imports_no_engine_starts_nothing(packages: str) -> None:
    code = "import os, sys, multiprocessing, threading\n" + SERVE + FORKS["fork"].replace("serve()", "import vllm", 1)
    code += "print('ai_otel.start' in sys.modules, 'wrapt' in sys.modules, threading.active_count())\n"
    said = python(code, path=(activation.DIRECTORY, packages), OTEL_SDK_DISABLED="true", **ON)
    assert said.split()[1:] == ["False", "False", "1"]


def test_threads_that_import_at_once_make_one_handle_and_none_hangs(packages: str) -> None:
    """Engines, modules that ai-otel needs, and `instrument()`, each on several threads at the same time."""
    code = """
import json, sys, threading
jobs = ["import vllm", "import llama_cpp", "import ai_otel; ai_otel.instrument()", "import asyncio, inspect, wrapt",
        "import opentelemetry.sdk.trace", "import importlib.metadata, dataclasses, logging"] * 3
ready, seen, failed = threading.Barrier(len(jobs)), [], []

def work(job):
    ready.wait()
    try:
        exec(job, {})
        if "vllm" in job or "llama" in job or "instrument" in job:
            seen.append(id(sys.modules["ai_otel.start"].current()))
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=work, args=[job], daemon=True) for job in jobs]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(40)
handle = sys.modules["ai_otel.start"].current()
print(json.dumps([failed, len(set(seen)), sorted(handle.adapters), [t.is_alive() for t in threads].count(True)]))
"""
    said = python(code, path=(activation.DIRECTORY, packages), **ON)
    assert json.loads(said) == [[], 1, ["llama_cpp", "vllm"], 0]


@pytest.mark.fault(
    "configuration",
    "a setting is malformed in the environment of a process that never imports an engine",
    "nothing is logged there; where an engine is imported, it is logged once",
)
def test_a_bad_setting_is_logged_when_the_engine_is_imported(packages: str) -> None:
    code = "import logging, sys; logging.basicConfig(stream=sys.stdout, format='%(message)s'); print('begin')\n"
    bad = {"AI_OTEL_QUEUE_LIMIT": "-1", **ON}
    path = (activation.DIRECTORY, packages)
    assert python(code, path=path, **bad) == "begin\n"
    said = python(code + "import vllm, llama_cpp, ai_otel; ai_otel.instrument()", path=path, **bad)
    assert said.count("AI_OTEL_QUEUE_LIMIT='-1' is invalid") == 1
    assert said.startswith("begin\n")


def test_code_of_the_user_comes_before_the_first_engine(packages: str) -> None:
    """Its settings, providers and exceptions are those of an interpreter that waits for nothing."""
    code = """
import ai_otel
try:
    ai_otel.instrument(queue_limit=0)
except ai_otel.SettingsError as error:
    print("raised")
handle = ai_otel.instrument(queue_limit=7)
import vllm
print(handle.settings.queue_limit, ai_otel.instrument() is handle, sorted(handle.adapters))
"""
    said = python(code, path=(activation.DIRECTORY, packages), **ON)
    assert said.splitlines() == ["raised", "7 True ['vllm']"]


def test_uninstrument_before_the_first_engine_keeps_it_off(packages: str) -> None:
    code = "import ai_otel; ai_otel.uninstrument(); import vllm; print(ai_otel.start.current())"
    assert python(code, path=(activation.DIRECTORY, packages), **ON).strip() == "None"


def test_an_engine_whose_assertions_pytest_rewrites_is_observed(packages: str, tmp_path: Path) -> None:
    """Its finder is before that of ai-otel and asks no other."""
    (tmp_path / "test_it.py").write_text(
        "import pytest, sys\npytest.register_assert_rewrite('vllm')\n"
        "def test_it():\n    import vllm, llama_cpp\n"
        "    assert sorted(sys.modules['ai_otel.start'].current().adapters) == ['llama_cpp', 'vllm']\n"
    )
    code = f"import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))"
    assert "1 passed" in python(code, path=(activation.DIRECTORY, packages), **ON)
