"""Two parties in one process are two open files, which is all that the kernel's locks go by."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_otel.gpu.leader import Election


def test_one_looks_and_the_next_takes_over_when_it_ends(tmp_path: Path) -> None:
    first, second = Election(tmp_path), Election(tmp_path)
    assert (first.won(), second.won()) == (True, False)
    assert first.won()
    first.resign()
    assert second.won()
    second.resign()


def test_whoever_serves_knows_of_the_others(tmp_path: Path) -> None:
    first, second = Election(tmp_path), Election(tmp_path)
    first.serve()
    assert not first.others_serving()
    second.serve()
    assert first.others_serving()
    assert second.others_serving()
    second.resign()
    assert not first.others_serving()
    first.resign()


def test_a_process_that_is_killed_leaves_its_place(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from ai_otel.gpu.leader import Election
election = Election(Path({str(tmp_path)!r}))
print(election.won(), flush=True)
election.serve()
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        here = Election(tmp_path)
        assert not here.won()
        other.kill()
        other.wait()
        assert here.won()
        assert not here.others_serving()
        here.resign()


def test_the_child_of_a_fork_leaves_the_parents_place_alone(tmp_path: Path) -> None:
    parent = Election(tmp_path)
    assert parent.won()
    child = os.fork()
    if child == 0:
        parent.resign()
        os._exit(0 if not Election(tmp_path).won() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not Election(tmp_path).won()
    parent.resign()


def test_without_a_directory_for_locks_everyone_looks_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    election = Election(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, "ai_otel"):
        assert election.won()
        election.serve()
        assert not election.others_serving()
    assert "Mount a writable /tmp." in caplog.text
    assert len(caplog.records) == 1
    election.resign()
