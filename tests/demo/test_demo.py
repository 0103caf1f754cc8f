"""`ai-otel demo`, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import parts
from ai_otel.cli import main
from ai_otel.demo import child

DEMO = (sys.executable, "-m", "ai_otel.cli", "demo", "--plain")


def demo(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


@pytest.mark.requires(module="xllamacpp")
@pytest.mark.requires(module="gguf")
def test_the_demo_shows_a_trace_and_that_the_counts_agree() -> None:
    done = demo("--seconds", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"├─ prefill +[\d.]+ ms", done.stdout)
    assert re.search(r"└─ decode +[\d.]+ ms", done.stdout)
    assert re.search(r"whole request( +[\d.]+ ms){3}", done.stdout)
    assert re.search(r"finished +(\d+) +\1\n", done.stdout)
    assert re.search(r"cancelled +([1-9]\d*) +\1\n", done.stdout)
    assert re.search(r"rejected +([1-9]\d*) +\1\n", done.stdout)
    assert re.search(r"✓ (\d+) of \1 requests have their trace", done.stdout)
    assert re.search(
        r"✓ tokens on spans = tokens reported to clients: ([1-9]\d*) = \1 in, ([1-9]\d*) = \2 out", done.stdout
    )
    assert "Next:" in done.stdout
    assert "\x1b" not in done.stdout
    port = re.search(r"--port (\d+)", done.stdout)
    assert port is not None
    assert not answers(f"http://127.0.0.1:{port[1]}/health"), "its server still runs"


@pytest.mark.requires(module="xllamacpp")
@pytest.mark.requires(module="gguf")
def test_where_no_telemetry_comes_it_says_so_and_fails() -> None:
    silent = {"AI_OTEL_TRACES": "false", "AI_OTEL_METRICS": "false"}
    done = demo("--seconds", "1", environment=silent)
    assert done.returncode == 1
    assert "No telemetry arrived within 10 s" in done.stdout
    assert "ai-otel doctor" in done.stdout


@pytest.mark.requires(module="xllamacpp")
@pytest.mark.requires(module="gguf")
def test_the_users_own_choice_of_exporter_does_not_reach_the_demo() -> None:
    elsewhere = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    assert demo("--seconds", "1", environment=elsewhere).returncode == 0


def default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def kept() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`--keep`, as soon as it says where its page is."""
    running = subprocess.Popen(
        [*DEMO, "--seconds", "1", "--keep"],
        stdout=subprocess.PIPE,
        text=True,
        # A runner that was started in the background ignores SIGINT, and its children inherit that.
        preexec_fn=default_signals,  # noqa: PLW1509 - no threads here
    )
    assert running.stdout is not None
    try:
        for line in running.stdout:
            page = re.search(r"http://\S+/metrics", line)
            if page is not None:
                yield running, page[0]
                return
        raise AssertionError("it ended")
    finally:
        if running.poll() is None:
            running.kill()
        running.stdout.close()
        running.wait()


@pytest.mark.requires(module="xllamacpp")
@pytest.mark.requires(module="gguf")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_kept_it_serves_a_page_for_prometheus_until_a_signal(how: signal.Signals) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with kept() as (running, url):
        with urllib.request.urlopen(url, timeout=5) as page:
            families = {family.name: family for family in text_string_to_metric_families(page.read().decode())}
        assert families["ai_otel_usage_output_tokens"].type == "counter"
        assert families["gen_ai_server_request_duration_seconds"].type == "histogram"
        time.sleep(0.5)
        running.send_signal(how)
        assert running.wait(20) == 0


@pytest.mark.requires(part="vllm")
def test_the_same_on_vllm(vllm: parts.VllmEnvironment, root: Path) -> None:
    done = subprocess.run(
        [vllm.python, *DEMO[1:], "--engine", "vllm", "--model", vllm.model, "--seconds", "5"],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"├─ queue +[\d.]+ ms", done.stdout)
    assert re.search(
        r"✓ tokens on spans = tokens reported to clients: ([1-9]\d*) = \1 in, ([1-9]\d*) = \2 out", done.stdout
    )


def test_what_is_not_installed_is_reported_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(child.importlib.util, "find_spec", lambda _: None)
    assert main(["demo"]) == 2
    assert "xllamacpp" in (message := capsys.readouterr().err)
    assert "pip install 'ai-otel[demo]'" in message
    assert main(["demo", "--engine", "vllm"]) == 2
    assert "vllm" in capsys.readouterr().err
