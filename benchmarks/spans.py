"""
Cost of the spans of one request, encoded for OTLP: `python benchmarks/spans.py`, under 20 seconds.

Four spans, the first with 15 attributes, from `start_span` to the bytes of an export request: by the SDK, and by
`ai_otel.direct`. The alternative, a process of ai-otel's own that is handed the values of a record, would cost this
process at least `marshal.dumps` of these values, and the host the memory of that process.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from measure import HEAD, Case, Figure, interleaved, on_this_thread  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.context import Context  # noqa: E402
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans  # noqa: E402
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: E402
from opentelemetry.trace import SpanKind, Tracer  # noqa: E402

from ai_otel.direct.sending import encode  # noqa: E402
from ai_otel.direct.tracer import DirectTracerProvider  # noqa: E402

BATCH, ROUNDS = 128, 100
"""Requests of a round: 512 spans, the SDK's batch."""
PHASES = ("queue", "prefill", "decode")
START_NS = 1_700_000_000_000_000_000


def attributes(number: int) -> dict[str, Any]:
    """Those of a request: some the same for all, some for none."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "meta-llama/Llama-3.1-8B-Instruct",
        "gen_ai.response.model": "meta-llama/Llama-3.1-8B-Instruct",
        "gen_ai.response.id": f"chatcmpl-{number:032x}",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.request.max_tokens": 256,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.usage.input_tokens": 1000 + number % 777,
        "gen_ai.usage.output_tokens": 100 + number % 77,
        "ai_otel.outcome": "finished",
        "ai_otel.time_to_first_token": 0.1 + number / 1e6,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }


class Kept(SpanProcessor):
    """The spans that ended."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: Any) -> None:
        """Keep it."""
        self.spans.append(span)


def request(tracer: Tracer, number: int) -> None:
    """The spans of one request."""
    span = tracer.start_span(
        "chat tiny", Context(), kind=SpanKind.SERVER, attributes=attributes(number), start_time=START_NS + number
    )
    context = trace.set_span_in_context(span, Context())
    for phase in PHASES:
        tracer.start_span(phase, context, start_time=START_NS + number).end(START_NS + number + 5)
    span.end(START_NS + number + 9)


def case(provider: TracerProvider, encoded: Callable[[list[Any]], bytes]) -> Case:
    """Makes and encodes the spans of so many requests."""
    kept = Kept()
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("benchmark", "1")

    def run(requests: int) -> float:
        def work() -> None:
            for number in range(requests):
                request(tracer, number)
            encoded(kept.spans)

        kept.spans.clear()
        return on_this_thread(work)

    return run


def handed_over(requests: int) -> float:
    """The values of the same requests, ready for a pipe."""

    def work() -> None:
        for number in range(requests):
            marshal.dumps((START_NS, START_NS + 9, tuple(attributes(number).values()), ((1, 2), (2, 3), (3, 4))))

    return on_this_thread(work)


def values_alone(requests: int) -> float:
    """What all three pay for the values themselves."""
    return on_this_thread(lambda: [attributes(number) for number in range(requests)] and None)


def memory_of_a_process_mib() -> float:
    """Private memory of a process that can encode and send, without what it shares with others."""
    code = (
        "import opentelemetry.sdk.trace.export, opentelemetry.exporter.otlp.proto.http.trace_exporter, sys;"
        "print(sum(int(l.split()[1]) for l in open('/proc/self/smaps') if l.startswith('Private')) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print a table."""
    cases = {
        "values": values_alone,
        "sdk": case(TracerProvider(shutdown_on_exit=False), lambda spans: encode_spans(spans).SerializeToString()),
        "direct": case(DirectTracerProvider(shutdown_on_exit=False), encode),
        "marshal": handed_over,
    }
    found = interleaved(cases, ROUNDS, BATCH)
    rows = {name: series - found["values"] for name, series in found.items()}
    print(f"four spans, encoded\n{HEAD}")
    print(Figure("by the SDK", "µs", rows["sdk"]))
    print(Figure("by ai_otel.direct", "µs", rows["direct"], 20))
    print(Figure("… of the SDK", "", rows["direct"] / rows["sdk"], 0.2))
    print(Figure("the same values, marshalled for another process", "µs", rows["marshal"]))
    if Path("/proc/self/smaps").exists():
        print(f"  memory of another process that could send them: {memory_of_a_process_mib():.0f} MiB")


if __name__ == "__main__":
    main()
