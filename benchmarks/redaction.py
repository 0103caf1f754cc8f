"""
What the Collector's features `redaction` and `names` cost: `python benchmarks/redaction.py [--rounds N]`.

One Collector for each choice of features, all of the same binary, each fed the same requests in turn, under a minute in
all. The figure is spans for one second of a core, by the process's own CPU time. What they export goes nowhere: without
a feature it is the cost of receiving alone, so that in a pipeline that also sends the difference is smaller.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / place) for place in ("src", "tools", "tests")]

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.proto.trace.v1.trace_pb2 import Span  # noqa: E402

from harness.collector.process import Collector, composed, running  # noqa: E402
from harness.telemetry.traffic import attributes as attributes_of  # noqa: E402

SPANS = 100
"""In one request."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "neither": (),
    "names": ("names",),
    "redaction": ("redaction",),
    "both": ("names", "redaction"),
}

SMALL: Mapping[str, object] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "vllm",
    "gen_ai.request.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.id": "chatcmpl-3f0e6c1b2a9d4f7c8e5b6a1d2c3f4e5b",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.request.max_tokens": 512,
    "gen_ai.request.temperature": 0.7,
    "gen_ai.request.stream": True,
    "gen_ai.usage.input_tokens": 1234,
    "gen_ai.usage.output_tokens": 256,
    "gen_ai.response.time_to_first_chunk": 0.4111111111111111,
    "http.request.method": "POST",
    "http.route": "/v1/chat/completions",
    "http.response.status_code": 200,
    "url.path": "/v1/chat/completions",
    "url.scheme": "http",
    "network.protocol.version": "1.1",
    "server.address": "inference-gateway.ai.svc.cluster.local",
    "server.port": 8000,
    "client.address": "10.42.3.17",
    "user_agent.original": "OpenAI/Python 3.54.0",
}

SENTENCE = "The quick brown fox jumps over 13 lazy dogs near the river, at 10:30, for $4.50 each (or so they say). "

PAYLOADS: Mapping[str, tuple[Mapping[str, object], int]] = {
    "small span": (SMALL, 200),
    "prompt of 8 kB, where prompts belong": ({**SMALL, "gen_ai.input.messages": (SENTENCE * 90)[:8192]}, 60),
    "text of 8 kB, under an unknown key": ({**SMALL, "app.text": (SENTENCE * 90)[:8192]}, 8),
}
"""The attributes, and how many requests make a round."""


def request(attributes: Mapping[str, object]) -> bytes:
    """So many equal spans, but for their ids, as they come over the wire."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    given = {"service.name": "llama", "k8s.pod.name": "vllm-llama-7d9f8b6c5d-x2k4p"}
    resource.resource.attributes.extend(attributes_of(given))
    scope = resource.scope_spans.add()
    scope.scope.name = "ai_otel.gen_ai"
    for index in range(1, SPANS + 1):
        scope.spans.append(
            Span(
                trace_id=index.to_bytes(16, "big"),
                span_id=index.to_bytes(8, "big"),
                name="chat meta-llama/Llama-3.1-8B-Instruct",
                kind=Span.SPAN_KIND_SERVER,
                start_time_unix_nano=1,
                end_time_unix_nano=2,
                attributes=attributes_of(attributes),
            )
        )
    return message.SerializeToString()


def rate(collector: Collector, body: bytes, count: int) -> float:
    """Spans for a second of a core."""
    before = collector.cpu_seconds()
    for _ in range(count):
        sent = urllib.request.Request(
            f"http://127.0.0.1:{collector.ports['http']}/v1/traces", body, {"Content-Type": "application/x-protobuf"}
        )
        urllib.request.urlopen(sent, timeout=60).close()
    return count * SPANS / max(collector.cpu_seconds() - before, 1e-3)


def start(stack: ExitStack, features: Sequence[str], directory: Path) -> Collector:
    """A Collector whose spans go nowhere."""
    tree = composed(
        role="gateway_stateful", features=("local", *features), without=("persistence",), backends=("file",)
    )
    tree["exporters"] = {"nop": {}}
    for pipeline in tree["service"]["pipelines"].values():
        pipeline["exporters"] = ["nop" if name == "file/backend" else name for name in pipeline["exporters"]]
    return stack.enter_context(running(tree, directory))


def measure(rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    """For each payload, the median rate of each choice."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        collectors = {name: start(stack, features, place / name) for name, features in CHOICES.items()}
        for payload, (attributes, count) in PAYLOADS.items():
            body = request(attributes)
            rates: dict[str, list[float]] = {name: [] for name in collectors}
            for turn in range(rounds + 1):
                for name, collector in collectors.items():
                    found = rate(collector, body, count)
                    # The first round warms up.
                    rates[name] += [found] if turn else []
            yield payload, {name: statistics.median(values) for name, values in rates.items()}


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/redaction.py", description="What redaction costs.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{'spans for a second of one core':<42}" + "".join(f"{name:>12}" for name in CHOICES))
    for payload, rates in measure(rounds):
        print(f"  {payload:<40}" + "".join(f"{rates[name]:>12,.0f}" for name in CHOICES), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
