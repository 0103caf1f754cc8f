"""A process whose own code reports requests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.telemetry.sink import listening


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


@pytest.mark.fault(
    "export", "a process ends while its first request is emitted", "the request's span and its metrics are exported"
)
def test_a_process_that_ends_with_its_first_request_exports_it() -> None:
    """From Python 3.12 on no thread can be started then."""
    program = """
import ai_otel
ai_otel.instrument(gpu=("none",))
with ai_otel.inference("chat", provider="mine"):
    pass
"""
    with listening() as sink:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url}
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, env=environment, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        spans = [
            span for request in sink.traces for r in request.resource_spans for s in r.scope_spans for span in s.spans
        ]
        assert [span.name for span in spans] == ["chat"]
        assert sink.metrics


FORKS = """
import os, sys, threading
import ai_otel

class Slow:
    # Finds nothing, after the time that an import takes on a cold file system.
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            importing.set()
            import time; time.sleep(1)

importing = threading.Event()
sys.meta_path.insert(0, Slow())
if len(sys.argv) > 2:
    ai_otel.instrument()

def report():
    with ai_otel.inference("chat"):
        pass

thread = threading.Thread(target=report)
thread.start()
importing.wait()
child = os.fork()
report()
if child == 0:
    from ai_otel.start import current
    current().stop()
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.fault(
    "requests",
    "the process forks while another thread reports the first request",
    "the child reports its own requests; neither hangs on the import that the thread had begun",
)
@pytest.mark.parametrize(
    "arguments",
    [("ai_otel.manual", "instrument"), ("ai_otel.providers", "instrument"), ("ai_otel.start",), ("ai_otel.providers",)],
    ids=" ".join,
)
def test_a_fork_waits_for_the_first_reported_request(arguments: tuple[str, ...]) -> None:
    quiet = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "AI_OTEL_GPU": "none"}
    quiet["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # from 3.12 on Python warns of a fork beside threads
    command, on = [sys.executable, "-c", FORKS, *arguments], {"AI_OTEL_ENABLED": "true"}
    done = subprocess.run(
        command, check=False, timeout=30, env={**os.environ, **quiet, **on}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
