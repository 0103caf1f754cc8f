"""The server of `examples/custom_server`, as its page starts it."""

from __future__ import annotations

import json
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness.polling import wait_until
from harness.server import Server, free_port, serving
from harness.telemetry.sink import listening

EXAMPLE = Path(__file__).parents[3] / "examples/custom_server/server.py"


def ask(server: Server, **body: Any) -> bytes:
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=json.dumps({"messages": [{"role": "user", "content": "Say hello."}], **body}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def test_the_examples_page_says_what_arrives(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "ai_otel.cli", "run", "--", sys.executable, str(EXAMPLE)]
    with listening() as sink:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        environment |= {"AI_OTEL_PROVIDER": "parrot", "AI_OTEL_GPU": "none", "PORT": str(port)}
        with serving(command, port, environment, tmp_path / "log", timeout_s=30) as server:
            assert b"[DONE]" in ask(server, stream=True, max_tokens=32)
            assert json.loads(ask(server))["choices"][0]["message"]["content"] == "Say hello."
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(server, max_tokens=0)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
        wait_until(lambda: len(sink.spans) >= 3, timeout_s=10)
    spans = sorted(sink.spans, key=lambda span: span.start_ns)
    assert [span.attributes["ai_otel.outcome"] for span in spans] == ["finished", "finished", "rejected"]
    assert spans[2].attributes["error.type"] in ("400", "HTTPException")
    for span in spans[:2]:
        assert (
            span.attributes.items()
            >= {
                "gen_ai.provider.name": "parrot",
                "gen_ai.response.model": "parrot-1",
                "gen_ai.usage.input_tokens": 2,
                "gen_ai.usage.output_tokens": 2,
            }.items()
        )
