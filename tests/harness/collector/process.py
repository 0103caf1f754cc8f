"""Runs the real Collector on a configuration, with pages to scrape and a file to read what came out."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

import parts
from ai_otel.collector.compose import Selection, compose
from harness.polling import wait_until
from harness.server import end, free_port

Tree = dict[str, Any]


class CollectorError(RuntimeError):
    """It did not start, or ended by itself; the message ends with its last lines."""


def binary() -> Path:
    """The built distribution; ask for it beside `@pytest.mark.requires(part="collector")`."""
    found = parts.program("collector", "ai-otel-collector")
    assert found is not None, "mark the test with requires(part='collector')"
    return found


def strict(tree: Tree) -> Tree:
    """The same configuration, in which a statement that goes wrong stops the data: what users only find in a log."""
    for processor in tree.get("processors", {}).values():
        if "error_mode" in processor:
            processor["error_mode"] = "propagate"
    return tree


def composed(**selection: Any) -> Tree:
    """What `ai-otel collector render` would print, as a tree; strict, and with a file that is written at once."""
    tree = strict(compose(Selection(**selection)).tree)
    for name, exporter in tree.get("exporters", {}).items():
        if name.startswith("file"):
            exporter["flush_interval"] = "50ms"
    return tree


def validate(tree: Tree | Path, environment: Mapping[str, str] | None = None) -> str:
    """What the binary has against this configuration; empty when nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
        if not isinstance(tree, Path):
            written.write(json.dumps(tree))  # which is YAML too
            written.flush()
        done = subprocess.run(
            [binary(), "validate", "--config", tree if isinstance(tree, Path) else written.name],
            env={**os.environ, **PLACES, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return "" if done.returncode == 0 else done.stdout + done.stderr


# Variables that a deployment sets, for configurations that are validated and not run.
PLACES = {
    "K8S_NODE_NAME": "node-1",
    "AI_OTEL_KUBELET_AUTH": "none",
    "AI_OTEL_BACKEND_ENDPOINT": "127.0.0.1:4317",
    "AI_OTEL_BACKEND_URL": "http://127.0.0.1:4318",
    "AI_OTEL_PROMETHEUS_URL": "http://127.0.0.1:9090",
    "AI_OTEL_REMOTE_WRITE_URL": "http://127.0.0.1:9090/api/v1/write",
    "AI_OTEL_KAFKA_BROKERS": "127.0.0.1:9092",
}


class Collector:
    """One running Collector."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ports: Mapping[str, int]) -> None:
        self.process = process
        self.log = log
        self.ports = ports

    def output(self) -> str:
        """What it logged so far."""
        return self.log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def own_metrics(self) -> str:
        """Its page about itself."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['self']}/metrics", timeout=10) as page:
            return str(page.read().decode())


@contextmanager
def running(
    tree: Tree,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
    inside: Sequence[str | Path] = (),
) -> Iterator[Collector]:
    """Run it until the block ends, on ports of its own; `inside` is a command that becomes the one given to it."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ("health", "self", "grpc", "http", "prometheus")} | dict(ports or {})
    (config := directory / "collector.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    variables = {
        "AI_OTEL_HEALTH_LISTEN": f"127.0.0.1:{ports['health']}",
        "AI_OTEL_SELF_HOST": "127.0.0.1",
        "AI_OTEL_SELF_PORT": str(ports["self"]),
        "AI_OTEL_OTLP_GRPC": f"127.0.0.1:{ports['grpc']}",
        "AI_OTEL_OTLP_HTTP": f"127.0.0.1:{ports['http']}",
        "AI_OTEL_PROMETHEUS_LISTEN": f"127.0.0.1:{ports['prometheus']}",
        "AI_OTEL_FILE": str(directory / "out.jsonl"),
        "AI_OTEL_QUEUE_DIR": str(directory / "queue"),
        **(environment or {}),
    }
    log = directory / "collector.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*inside, binary(), "--config", config],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
        )
    collector = Collector(process, log, ports)
    try:
        _wait(collector)
        yield collector
    finally:
        end(process)


def _wait(collector: Collector) -> None:
    url = f"http://127.0.0.1:{collector.ports['health']}/"

    def answers() -> bool:
        if collector.process.poll() is not None:
            raise CollectorError(collector.output()[-6000:])
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    if not wait_until(answers, 30):
        raise CollectorError(collector.output()[-6000:])


# ---------------------------------------------------------------- pages, and what comes out


class _PagesServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # as many scrapes may begin at one time as there are pages


class Pages:
    """Metrics endpoints by path, as an engine would serve them; `text` may be changed while it runs."""

    def __init__(self, text: Mapping[str, str]) -> None:
        self.text = dict(text)
        self.reads = 0
        self._server = _PagesServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Pages:  # noqa: PYI034 - Self is younger than Python 3.10
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        pages = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pages.reads += 1
                text = pages.text.get(self.path)
                body = (text or "").encode()
                self.send_response(404 if text is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(ConnectionError):  # who finds a page too large leaves in the midst of it
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def exports(path: Path) -> list[Tree]:
    """Every export that the file backend wrote, as OTLP/JSON."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def value_of(attribute: Tree) -> Any:
    """The value of an OTLP/JSON attribute."""
    ((kind, value),) = attribute["value"].items() if attribute["value"] else (("stringValue", ""),)
    if kind == "arrayValue":
        return [value_of({"value": item}) for item in value.get("values", [])]
    return int(value) if kind == "intValue" else value


def attributes_of(holder: Tree) -> Tree:
    """Attributes as a mapping."""
    return {attribute["key"]: value_of(attribute) for attribute in holder.get("attributes", [])}
