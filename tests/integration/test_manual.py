"""A process whose own code reports requests."""

from __future__ import annotations

import os
import subprocess
import sys


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
