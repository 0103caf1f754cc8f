"""`flock` locks belong to open files, so one process can hold the locks of several candidates."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_otel.gpu.leader import LeaderElection


def test_the_next_process_takes_over_when_the_leader_resigns(tmp_path: Path) -> None:
    first, second = LeaderElection(tmp_path), LeaderElection(tmp_path)
    assert (first.won(), second.won()) == (True, False)
    assert first.won()
    first.resign()
    assert second.won()
    second.resign()


def test_serving_processes_see_each_other(tmp_path: Path) -> None:
    first, second = LeaderElection(tmp_path), LeaderElection(tmp_path)
    first.serve()
    assert not first.others_serving()
    second.serve()
    assert first.others_serving()
    assert second.others_serving()
    second.resign()
    assert not first.others_serving()
    first.resign()


def test_a_killed_leader_is_replaced(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from ai_otel.gpu.leader import LeaderElection
election = LeaderElection(Path({str(tmp_path)!r}))
print(election.won(), flush=True)
election.serve()
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        here = LeaderElection(tmp_path)
        assert not here.won()
        other.kill()
        other.wait()
        assert here.won()
        assert not here.others_serving()
        here.resign()


def test_a_forked_child_does_not_release_the_parents_locks(tmp_path: Path) -> None:
    parent = LeaderElection(tmp_path)
    assert parent.won()
    child = os.fork()
    if child == 0:
        parent.resign()
        os._exit(0 if not LeaderElection(tmp_path).won() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not LeaderElection(tmp_path).won()
    parent.resign()


def test_without_a_lock_directory_every_process_leads_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    election = LeaderElection(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, "ai_otel"):
        assert election.won()
        election.serve()
        assert not election.others_serving()
    assert "Mount a writable /tmp." in caplog.text
    assert len(caplog.records) == 1
    election.resign()
