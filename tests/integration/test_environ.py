"""The environment as one thread reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from ai_otel.inputs import environ
from ai_otel.inputs.environ import process_variables, read_as


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SET", "real")
    monkeypatch.delenv("OTEL_UNSET", raising=False)


def test_only_this_thread_reads_other_values() -> None:
    others = list[str | None]()
    with read_as({"OTEL_SET": None, "OTEL_UNSET": "given"}):
        assert os.environ.get("OTEL_SET") is None
        assert "OTEL_SET" not in os.environ
        assert os.environ["OTEL_UNSET"] == os.getenv("OTEL_UNSET") == "given"
        assert dict(os.environ)["OTEL_UNSET"] == "given"
        assert "OTEL_SET" not in {**os.environ}
        thread = threading.Thread(
            target=lambda: others.extend([os.environ.get("OTEL_SET"), os.environ.get("OTEL_UNSET")])
        )
        thread.start()
        thread.join()
    assert others == ["real", None]
    assert os.environ["OTEL_SET"] == "real"
    assert "OTEL_UNSET" not in os.environ


def test_child_processes_inherit_what_was_set() -> None:
    with read_as({"OTEL_SET": None}):
        command = [sys.executable, "-c", "import os; print(os.environ['OTEL_SET'])"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "real\n"


def test_afterwards_the_mapping_is_the_one_of_before() -> None:
    before = type(os.environ)
    with read_as({"OTEL_SET": None}), read_as({"OTEL_UNSET": "given"}):
        assert type(os.environ) is not before
    assert type(os.environ) is before


def test_views_nest() -> None:
    with read_as({"OTEL_SET": "outer"}):
        with read_as({"OTEL_SET": None}):
            assert "OTEL_SET" not in os.environ
        assert os.environ["OTEL_SET"] == "outer"


def test_the_values_that_were_set_stay_known() -> None:
    with read_as({"OTEL_SET": None}):
        assert process_variables()["OTEL_SET"] == "real"
        assert "OTEL_SET" not in os.environ


def test_another_process_may_be_examined() -> None:
    with read_as({"OTEL_SET": None, "OTEL_UNSET": "theirs"}, another_process=True):
        assert "OTEL_SET" not in process_variables()
        with read_as({"OTEL_UNSET": "read"}):
            assert process_variables()["OTEL_UNSET"] == "theirs"
            assert os.environ["OTEL_UNSET"] == "read"
    assert process_variables()["OTEL_SET"] == "real"


def test_a_mapping_of_the_applications_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = dict(os.environ)
    monkeypatch.setattr(os, "environ", own)
    with read_as({"OTEL_SET": None}):
        assert type(os.environ) is dict
        assert process_variables()["OTEL_SET"] == "real"
    assert os.environ is own


def test_a_child_of_a_fork_has_the_view_of_its_own_thread_only() -> None:
    started, done = threading.Event(), threading.Event()

    def hold() -> None:
        with read_as({"OTEL_SET": "other"}):
            started.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    started.wait(10)
    with read_as({"OTEL_SET": "mine"}):
        child = os.fork()
        if child == 0:
            os._exit(0 if os.environ["OTEL_SET"] == "mine" and len(environ._views) == 1 else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
