"""A process whose own code reports requests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_the_first_reported_request_starts_a_process_that_is_switched_on() -> None:
    program = """
import ai_otel, ai_otel.testing
from ai_otel.start import current
assert current() is None
with ai_otel.inference("chat", provider="mine"):
    assert current() is not None and current().engine == "mine"
print("started")
"""
    environment = {
        **os.environ,
        "AI_OTEL_ENABLED": "true",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "started\n", done.stderr


FORKS = """
import os, sys, threading
import ai_otel

class Slow:
    # Finds nothing, after the time that an import takes on a cold file system.
    def find_spec(self, name, path=None, target=None):
        if name == "ai_otel.manual":
            importing.set()
            import time; time.sleep(1)

importing = threading.Event()
ai_otel.instrument()
sys.meta_path.insert(0, Slow())

def report():
    with ai_otel.inference("chat"):
        pass

thread = threading.Thread(target=report)
thread.start()
importing.wait()
child = os.fork()
report()
if child == 0:
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.fault(
    "requests",
    "the process forks while another thread reports the first request",
    "the child reports its own requests; neither hangs on the import that the thread had begun",
)
def test_a_fork_waits_for_the_first_reported_request() -> None:
    quiet = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "AI_OTEL_GPU": "none"}
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=30, env={**os.environ, **quiet})
