"""`ai-otel doctor` and log messages show no credential and no control character, wherever a value comes from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ai_otel.doctor import diagnosis
from ai_otel.doctor.examination import examine
from ai_otel.doctor.server import Server, _named, flags_of
from ai_otel.inputs import otel
from ai_otel.inputs.otel import ROWS, readable
from ai_otel.settings import DOWNWARD_API, Environment, Settings

SECRET = "s3cr3tABCdef0123456789xyz"
SHAPES = {
    "header": f"Authorization: Bearer {SECRET}",
    "header pair": f"authorization=Bearer%20{SECRET},x-key={SECRET}",
    "query": f"http://127.0.0.1:9/?api_key={SECRET}",
    "password": f"http://user:{SECRET}@127.0.0.1:9",
    "no scheme": f"user:{SECRET}@127.0.0.1:9",
    "malformed": f"http://user:{SECRET}@[::1",
    "flag": f"--api-key {SECRET}",
    "bare": SECRET,
    "escape": f"\x1b[31m\x1b]0;{SECRET}\x07\u202e",
    "placeholder": f"$(TOKEN) {SECRET}",
}
OTHERS = (
    *(name for names in DOWNWARD_API.values() for name in names),
    "OTEL_CONFIG_FILE",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_PYTHON_DISTRO",
    "VLLM_PLUGINS",
    "VLLM_USE_RUST_FRONTEND",
    "AI_OTEL_ENABLED",
    f"AI_OTEL_{SECRET}",
)
VARIABLES = (*ROWS, *OTHERS, *(f"AI_OTEL_{name.upper()}" for name in Settings.__dataclass_fields__))
NOT_TOGETHER = {"OTEL_CONFIG_FILE", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "AI_OTEL_GPU"}
"""With one of these, others are not read."""


def assert_clean(text: str) -> None:
    assert SECRET not in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.fault(
    "configuration",
    "a variable, an endpoint, a header or a process title holds a credential or terminal escapes",
    "`ai-otel doctor`, its `--json` and the log show it masked, escaped and cut",
)
@pytest.mark.parametrize("together", [True, False], ids=["most", "others"])
@pytest.mark.parametrize("shape", SHAPES)
def test_doctor_shows_no_credential(shape: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    value = SHAPES[shape]
    names = [name for name in VARIABLES if (name in NOT_TOGETHER) is not together]
    words = [f"vllm serve MODEL --api-key {SECRET}", f"--{SECRET}", f"--token={SECRET}", value]
    server = Server(
        1, f"/usr/bin/python {value}", _named(words), frozenset(flags_of(words)), dict.fromkeys(names, value)
    )
    findings = list(examine(server, f"http://user:{SECRET}@127.0.0.1:9/metrics?key={SECRET}"))
    assert_clean(diagnosis.as_text(findings, coloured=False))
    document = diagnosis.as_json(findings)
    assert_clean(document)
    assert "\\u001b" not in document


@pytest.mark.parametrize("shape", SHAPES)
def test_log_messages_show_no_credential(
    shape: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otel, "_logged", set())
    caplog.set_level(logging.DEBUG)
    environment = dict.fromkeys(VARIABLES, SHAPES[shape])
    Settings.switched_on(environment)
    Settings.from_environment(environment)
    Environment.read(environment)
    with readable("providers", "resource", "propagation", "globals", environment=environment):
        pass
    assert len(caplog.messages) > 20
    for message in caplog.messages:
        assert_clean(message)


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@h:port/", f"http://h/{SECRET}?x={SECRET}", "http://[::1"])
def test_a_malformed_metrics_url_is_one_line(ai_otel, closed_port, url: str) -> None:
    done = ai_otel("doctor", "--metrics-url", url, OTEL_EXPORTER_OTLP_ENDPOINT=closed_port)
    assert_clean(done.stdout + done.stderr)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_run_shows_no_credential_of_a_command_that_cannot_start(ai_otel, tmp_path: Path) -> None:
    (script := tmp_path / "server").write_bytes(b"\x00\x01")
    script.chmod(0o755)
    done = ai_otel("run", "--", str(script), "--api-key", SECRET)
    assert done.returncode == 126
    assert_clean(done.stderr)
