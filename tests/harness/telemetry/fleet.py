"""A small fleet that fills a real Prometheus: two engines' pages read by real Collectors, and our library."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from ai_otel import semconv
from ai_otel.emit.metrics import MetricEmitter
from ai_otel.engine_counters import EngineCounters
from ai_otel.record import Choice, Inference, Outcome, RequestRecord
from harness.collector import process as collector
from harness.collector.process import Pages, Tree, composed
from harness.polling import eventually
from harness.telemetry import prometheus
from harness.telemetry.moving_endpoints import Moving, MovingPage
from harness.telemetry.prometheus import Prometheus, Series

ROOT = Path(__file__).parents[3]
ENGINES = ROOT / "tests/engines"
EXAMPLE = ROOT / "collector-config/examples/prometheus.yml"

MOVES_S = 10
"""How long the pages move before they stand still."""
WINDOW_S = 6
"""What rates reach over: all of it while they moved."""

# ---------------------------------------------------------------- what the servers do

# In each tick of the vLLM page: 10 requests that it ended and 2 that it refused.
OF_VLLM = 'engine="0"'
ADDS = {
    f"vllm:prompt_tokens_total{{{OF_VLLM}": 100,
    f'vllm:prompt_tokens_cached_by_source_total{{{OF_VLLM},model_name="tiny",source="device"': 25,
    f"vllm:generation_tokens_total{{{OF_VLLM}": 40,
    f"vllm:prefix_cache_queries_total{{{OF_VLLM}": 100,
    f"vllm:prefix_cache_hits_total{{{OF_VLLM}": 30,
    f"vllm:num_preemptions_total{{{OF_VLLM}": 1,
    f'vllm:request_success_total{{{OF_VLLM},finished_reason="stop"': 6,
    f'vllm:request_success_total{{{OF_VLLM},finished_reason="length"': 2,
    f'vllm:request_success_total{{{OF_VLLM},finished_reason="abort"': 1,
    f'vllm:request_success_total{{{OF_VLLM},finished_reason="error"': 1,
    'vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"': 2,
}
SHOWS = {
    "vllm:num_requests_running{": 7,
    f'vllm:num_requests_waiting_by_reason{{{OF_VLLM},model_name="tiny",reason="capacity"': 3,
    f'vllm:num_requests_waiting_by_reason{{{OF_VLLM},model_name="tiny",reason="deferred"': 2,
    "vllm:num_requests_waiting{": 5,
    "vllm:kv_cache_usage_perc{": 0.42,
}
FIRST = [0.03] * 6 + [0.09] * 3 + [0.6]
SAMPLES = {
    "vllm:time_to_first_token_seconds": FIRST,
    "vllm:request_time_per_output_token_seconds": [0.012] * 7 + [0.06] * 2 + [0.3],
    "vllm:e2e_request_latency_seconds": [0.9] * 6 + [3.0] * 3 + [14.0],
    "vllm:request_queue_time_seconds": [0.1] * 9 + [0.9],
    "vllm:request_prefill_time_seconds": [0.2] * 8 + [1.2] * 2,
    "vllm:request_decode_time_seconds": [0.7] * 8 + [9.0] * 2,
}
# Of each tick of llama.cpp's, which has neither latencies nor outcomes.
LLAMA_ADDS = {
    "llamacpp:prompt_tokens_total ": 20,
    "llamacpp:prompt_tokens_cached_total ": 5,
    "llamacpp:tokens_predicted_total ": 10,
}
LLAMA_SHOWS = {"llamacpp:requests_processing ": 2, "llamacpp:requests_deferred ": 4}

# Of the library, once a second. What failed had not reached the engine's counters.
LIBRARY = "models.inside.vllm"
LIBRARY_FIRST = 0.003
LIBRARY_DURATION = 0.25
ENDINGS = {
    Outcome.FINISHED: (14, None),
    Outcome.FAILED: (2, "EngineDeadError"),
    Outcome.REJECTED: (3, "queue_full"),
    Outcome.CANCELLED: (1, "cancelled"),
}
TRACE = 0x0AF7651916CD43DD8448EB211C80319C


class Library:
    """ai-otel as it runs inside a server, without the server: records in, OTLP to Prometheus out."""

    def __init__(self, url: str) -> None:
        exporter = OTLPMetricExporter(f"{url}/api/v1/otlp/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=600_000)
        identity = {
            semconv.SERVICE_NAME: "vllm",
            semconv.SERVICE_INSTANCE_ID: LIBRARY,
            semconv.K8S_NAMESPACE_NAME: "models",
            semconv.K8S_POD_NAME: "inside",
            semconv.AI_OTEL_ENGINE_NAME: "vllm",
        }
        self._provider = MeterProvider([reader], Resource(identity))
        meters = [self._provider.get_meter(name) for name in (semconv.SCOPE_GEN_AI, semconv.SCOPE)]
        self._emitter = MetricEmitter(*meters, EngineCounters())
        self._sampled = set_span_in_context(NonRecordingSpan(SpanContext(TRACE, 1, True, TraceFlags(1))))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._provider.shutdown()

    def _serve(self) -> None:
        while not self._ended.wait(1):
            for outcome, (times, error) in ENDINGS.items():
                for _ in range(times):
                    self._emitter.emit(_record(outcome, error), "vllm", self._sampled)
            self._provider.force_flush()


def _record(outcome: Outcome, error: str | None) -> RequestRecord:
    choice = Choice(finish_reason="stop", completed=True, output_tokens=11, first_token_s=LIBRARY_FIRST, decode_s=0.1)
    ended_well = [choice] if outcome is Outcome.FINISHED else []
    return RequestRecord(
        operation="chat",
        inferences=[Inference("vllm", model="tiny", outcome=outcome, choices=ended_well)],
        end_ns=round(LIBRARY_DURATION * 1e9),
        outcome=outcome,
        error_type=error,
    )


# ---------------------------------------------------------------- the stage


@dataclass
class Fleet:
    """Prometheus, what fills it, and the moment to ask about."""

    prometheus: Prometheus
    vllm: MovingPage
    llama: MovingPage
    moving_until: float
    """The pages moved steadily for longer than a window before this moment, and stand still after it."""
    way: str

    def ask(self, expression: str) -> list[Series]:
        """What a panel shows at that moment."""
        return self.prometheus.query_range(expression, self.moving_until - 2, self.moving_until)


def example() -> Tree:
    """The shipped example. Its host name does not resolve here."""
    tree: Tree = yaml.safe_load(EXAMPLE.read_text())
    del tree["scrape_configs"]
    return tree


def scraping(targets: list[str]) -> Tree:
    """The example, with the Collectors' pages as its targets."""
    tree: Tree = yaml.safe_load(EXAMPLE.read_text())
    (job,) = tree["scrape_configs"]
    job["scrape_interval"] = job["scrape_timeout"] = "500ms"
    job["static_configs"] = [{"targets": targets}]
    return tree


def sidecar(
    engine: str, pages: Pages, backend: str, stack: ExitStack, directory: Path, url: str = ""
) -> collector.Collector:
    """A real Collector beside a page."""
    tree = composed(
        role="sidecar", engines=(engine,), features=("local",), without=("persistence",), backends=(backend,)
    )
    environment = {
        "AI_OTEL_ENGINE_TARGET": pages.address,
        "AI_OTEL_SCRAPE_INTERVAL": "1s",
        "AI_OTEL_SCRAPE_TIMEOUT": "1s",
        "AI_OTEL_PROMETHEUS_URL": url,
        "AI_OTEL_MODEL": "small" if engine == "llama_cpp" else "",  # its endpoint does not report one
        "K8S_NAMESPACE_NAME": "models",
        "K8S_POD_NAME": f"{engine.replace('_', '-')}-0",
    }
    return stack.enter_context(collector.running(tree, directory / engine, environment))


@contextmanager
def running(way: str, directory: Path) -> Iterator[Fleet]:
    """`pushed`: the Collectors and the library send OTLP to Prometheus. `scraped`: Prometheus reads the Collectors."""
    vllm = MovingPage((ENGINES / "vllm/page.prom").read_text(), ADDS, SHOWS, SAMPLES)
    llama = MovingPage((ENGINES / "llama_cpp/page.prom").read_text(), LLAMA_ADDS, LLAMA_SHOWS, {})
    with ExitStack() as stack:
        pages = {engine: stack.enter_context(Pages({})) for engine in ("vllm", "llama_cpp")}
        pages["vllm"].text, pages["llama_cpp"].text = Moving({"/metrics": vllm}), Moving({"/metrics": llama})
        if way == "pushed":
            asked = stack.enter_context(prometheus.running(example(), directory / "prometheus"))
            for engine, page in pages.items():
                sidecar(engine, page, "prometheus_otlp", stack, directory, asked.url)
            stack.enter_context(Library(asked.url))
        else:
            beside = [sidecar(engine, page, "prometheus", stack, directory) for engine, page in pages.items()]
            targets = [f"127.0.0.1:{each.ports['prometheus']}" for each in beside]
            asked = stack.enter_context(prometheus.running(scraping(targets), directory / "prometheus"))
        # Counts from before the first sample belong to no rate: the window begins after it.
        eventually(lambda: len(asked.query("ai_otel_request_running")) == len(pages), 30)
        time.sleep(MOVES_S)
        moving_until = time.time() - 1.5  # by now it has been read, sent and stored
        vllm.stop()
        llama.stop()
        time.sleep(3.5)
        yield Fleet(asked, vllm, llama, moving_until, way)
