"""Failures of hooks are counted by the process in which they happened."""

from __future__ import annotations

import os

import pytest

from ai_otel.hooks import guard as guards
from ai_otel.hooks.guard import Guard


def fail() -> None:
    raise ValueError


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.fault(
    "requests", "a process with failed hooks forks", "the child does not report the failures of its parent"
)
def test_what_failed_in_the_parent_of_a_fork_is_the_parents_to_report() -> None:
    Guard("g")(fail)
    child = os.fork()
    if child == 0:
        os._exit(sum(guards.errors.values()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert guards.errors == {"g": 1}
