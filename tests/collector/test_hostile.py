"""Broken, oversized or hostile endpoints, requests and backends: bounded, logged, and without effect on others."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import select
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.collector.backend import Backend
from harness.collector.durability import own
from harness.collector.hostile import engines, long_text, memory_mb, nested, with_attribute
from harness.collector.process import Collector, Tree, attributes_of, composed, exports, running
from harness.polling import eventually
from harness.telemetry.traffic import PROTOBUF, Senders, batches, post, span, spans_request

pytestmark = pytest.mark.requires(part="collector")

GOOD = (Path(__file__).parents[1] / "engines/vllm/page.prom").read_text()
REFUSED = {
    "broken_off": "unexpected EOF",
    "cut": "expected label value",
    "huge": "body size limit exceeded",
    "bomb": "body size limit exceeded",
    "many_labels": "sample limit exceeded",
    "many_names": "sample limit exceeded",
    "wide": "label_limit exceeded",
    "garbage": "expected a valid start token",
    "html": "expected a valid start token",
    "not_utf8": "invalid UTF-8 label value",
    "never": "context deadline exceeded",
    "endless": "",  # Whichever comes first, the end of the time or of the room.
}
MEMORY_MB = 450


def sidecar(**choice: Any) -> Tree:
    choice = {"backends": ("file",), **choice}
    return composed(role="sidecar", engines=("vllm",), features=("local", "limits"), without=("persistence",), **choice)


# ---------------------------------------------------------------- pages


class Scraped:
    """What came of the pages, by what is wrong with them."""

    def __init__(self, collector: Collector, addresses: dict[str, str], out: Path) -> None:
        self.peak_mb = memory_mb(collector.process.pid)
        self.up: dict[str, list[float]] = defaultdict(list)
        self.values: dict[str, set[tuple[str, Any]]] = defaultdict(set)
        self.errors: dict[str, str] = {}
        self.longest: Counter[str] = Counter()
        self.instances: dict[str, set[str]] = defaultdict(set)
        names = {address: name for name, address in addresses.items()}
        for instance, metric, point in _points(out):
            if point.get("flags"):
                continue  # a mark that a series has ended: its scrape was late
            attributes = attributes_of(point)
            lengths = [len(value) for value in attributes.values() if isinstance(value, str)]
            self.longest[names[instance]] = max(self.longest[names[instance]], *lengths, 0)
            self.instances[names[instance]].add(str(attributes.get("ai_otel.engine.index", "")))
            if metric["name"] == "up":
                self.up[names[instance]].append(point["asDouble"])
            else:
                value = point.get("asDouble", point.get("asInt", str(point.get("bucketCounts"))))
                self.values[names[instance]].add((metric["name"], value))
        for line in collector.output().splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("msg") == "Failed to scrape Prometheus endpoint":
                (name,) = (name for name, address in addresses.items() if address in record["target_labels"])
                self.errors[name] = record["error"]


def _points(out: Path) -> Iterator[tuple[str, Tree, Tree]]:
    for export in exports(out):
        for resource_metrics in export.get("resourceMetrics", ()):
            instance = attributes_of(resource_metrics["resource"])["service.instance.id"]
            for scope in resource_metrics["scopeMetrics"]:
                for metric in scope["metrics"]:
                    (kind,) = {"gauge", "sum", "histogram"} & metric.keys()
                    yield from ((instance, metric, point) for point in metric[kind]["dataPoints"])


@pytest.fixture(scope="module")
def scraped(tmp_path_factory) -> Scraped:
    """All of them, and a good one, read by one Collector."""
    directory = tmp_path_factory.mktemp("pages")
    tree, out = sidecar(), directory / "out.jsonl"
    # Else of equal messages it keeps ten in ten seconds.
    tree["service"]["telemetry"]["logs"]["sampling"] = {"enabled": False}
    job, _ = tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]
    (targets,) = job["static_configs"]
    # Long enough for the good ones on a machine that runs other tests beside this one.
    every = {"AI_OTEL_SCRAPE_INTERVAL": "8s", "AI_OTEL_SCRAPE_TIMEOUT": "8s"}
    with engines(GOOD) as addresses:
        targets["targets"] = list(addresses.values())
        with running(tree, directory, every) as collector:
            eventually(lambda: min(_reads(addresses, out).values()) >= 2, 90, lambda: _reads(addresses, out))
            return Scraped(collector, addresses, out)


def _reads(addresses: dict[str, str], out: Path) -> Counter[str]:
    ups = Counter(instance for instance, metric, _ in _points(out) if metric["name"] == "up")
    return Counter({address: ups[address] for address in addresses.values()})


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.fault("collector", "a metrics endpoint returns something else", "it is refused, and the log says why")
def test_a_page_that_is_no_page_is_refused_and_the_log_says_why(scraped, name) -> None:
    assert set(scraped.up[name]) == {0}
    assert scraped.values[name] == set()
    assert REFUSED[name] in scraped.errors[name]


@pytest.mark.parametrize("name", ["not_a_number", "infinite", "falling_buckets"])
@pytest.mark.fault("engines", "a metrics endpoint returns NaN or infinity", "the value is absent")
def test_what_is_no_measurement_is_absent(scraped, name) -> None:
    assert set(scraped.up[name]) == {1}
    assert scraped.values[name] == set()


@pytest.mark.fault("engines", "a metrics endpoint has one series twice", "the first value is used")
def test_of_two_values_of_one_series_the_first_stands(scraped) -> None:
    assert scraped.values["twice"] == {("ai_otel.request.running", 1.0)}


@pytest.mark.fault(
    "collector",
    "a series of a page has more than 64 labels",
    "that series is dropped, and the rest of the page is read",
)
def test_a_series_with_too_many_labels_costs_no_other(scraped) -> None:
    assert set(scraped.up["wide_series"]) == {1}
    assert scraped.values["wide_series"] == scraped.values["good"]


@pytest.mark.fault(
    "collector",
    "a label of a page is 100,000 characters long, as a server's whole configuration in one label is",
    "the page is read, and the value is cut to 2,048 characters",
)
def test_a_long_label_is_cut(scraped) -> None:
    assert set(scraped.up["long_value"]) == {1}
    assert {name for name, _ in scraped.values["good"]} <= {name for name, _ in scraped.values["long_value"]}
    assert max(scraped.longest["long_value"], scraped.longest["adapters"]) == 2048


@pytest.mark.fault(
    "collector",
    "500 LoRA adapters are in one label of vLLM's page",
    "they are counted in full, and the page is read",
)
def test_adapters_in_one_label_are_counted(scraped) -> None:
    assert set(scraped.up["adapters"]) == {1}
    counted = {("ai_otel.lora.adapter.running", 500.0), ("ai_otel.lora.slot.limit", 500.0)}
    assert counted <= scraped.values["adapters"]


@pytest.mark.fault(
    "collector",
    "a page has the series of 200 data-parallel ranks",
    "all of them are read, within bounded memory",
)
def test_a_page_of_many_ranks_is_read(scraped) -> None:
    assert set(scraped.up["ranks"]) == {1}
    assert scraped.instances["ranks"] >= {str(rank) for rank in range(200)}


@pytest.mark.fault(
    "collector", "scrape targets are endless, slow or broken", "other targets are scraped, within bounded memory"
)
def test_a_page_is_read_while_others_fail_within_bounded_memory(scraped) -> None:
    assert set(scraped.up["good"]) == {1}
    assert len(scraped.values["good"]) > 20
    assert scraped.peak_mb < 2 * MEMORY_MB, "one Collector reads all of them at once, four of 16 MB or 100,000 samples"


# ---------------------------------------------------------------- requests


@contextmanager
def receiving(directory: Path) -> Iterator[Collector]:
    """A Collector that must take an ordinary request before and after the block."""
    with running(sidecar(), directory) as collector:
        _takes(collector, directory / "out.jsonl", b"before__")
        yield collector
        assert collector.process.poll() is None, collector.output()[:4000]
        _takes(collector, directory / "out.jsonl", b"after___")


def _takes(collector: Collector, out: Path, span_id: bytes) -> None:
    body = spans_request([span("ordinary", b"t" * 16, span_id)]).SerializeToString()
    assert post(collector.ports["http"], body)[0] == 200
    eventually(lambda: span_id.hex() in out.read_text() if out.exists() else False, 10)


def send(collector: Collector, body: bytes, **headers: str) -> tuple[int, str]:
    """Status and answer; `__` in a header's name stands for a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", collector.ports["http"], timeout=30)
    try:
        given = {key.replace("__", "-"): value for key, value in headers.items()}
        try:
            connection.request("POST", "/v1/traces", body, {**PROTOBUF, **given})
        except (BrokenPipeError, ConnectionResetError):
            return 0, "the Collector hung up"
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


@pytest.mark.fault("collector", "an OTLP request is too large", "it is refused before it is read")
def test_a_request_that_is_too_large_is_refused_before_it_is_read(tmp_path) -> None:
    # The second ends a Collector without the limit: reading it takes more than the largest stack.
    too_large = [with_attribute(long_text(5_000_000)), with_attribute(nested(1_900_000))]
    with receiving(tmp_path) as collector:
        for body in too_large:
            status, answer = send(collector, body)
            assert status == 0 or (status == 400 and "request body too large" in answer)
            assert _grpc(collector, body) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert memory_mb(collector.process.pid) < 200


@pytest.mark.fault("collector", "a compressed OTLP request expands to gigabytes", "it is refused")
def test_a_small_request_that_grows_when_it_is_unpacked_is_refused(tmp_path) -> None:
    with receiving(tmp_path) as collector:
        for body in (bytes(300_000_000), with_attribute(long_text(5_000_000))):
            status, answer = send(collector, gzip.compress(body, 1), Content__Encoding="gzip")
            assert status == 400
            assert "request body too large" in answer
        assert memory_mb(collector.process.pid) < 200


@pytest.mark.fault(
    "collector", "an OTLP request is nested as deep as its size allows", "the Collector survives within bounded memory"
)
def test_the_deepest_request_that_fits_is_survived_within_bounded_memory(tmp_path) -> None:
    with receiving(tmp_path) as collector:
        assert send(collector, with_attribute(nested(120_000)))[0] == 200
        assert memory_mb(collector.process.pid) < MEMORY_MB


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (random.Random(1).randbytes(100_000), {}, 400),
        (b"\x0a\xff\xff\xff\xff\x0f", {}, 400),
        (b"{" * 100_000, {"Content__Type": "application/json"}, 400),
        (b'{"resourceSpans": 1}', {"Content__Type": "application/json"}, 400),
        (b"not gzip", {"Content__Encoding": "gzip"}, 400),
        (b"x", {"Content__Encoding": "none-such"}, 400),
        (b"x", {"Content__Type": "text/plain"}, 415),
    ],
    ids=["noise", "length", "braces", "json", "gzip", "encoding", "type"],
)
@pytest.mark.fault("collector", "a request is not OTLP", "it is refused")
def test_a_request_that_is_no_otlp_is_refused(tmp_path, body, headers, status) -> None:
    with receiving(tmp_path) as collector:
        found, _ = send(collector, body, **headers)
        assert found == status
        assert _grpc(collector, body) not in {None, grpc.StatusCode.UNAVAILABLE}


def _grpc(collector: Collector, body: bytes) -> grpc.StatusCode | None:
    """How it ended; none where it was taken."""
    with grpc.insecure_channel(f"127.0.0.1:{collector.ports['grpc']}") as channel:
        export = channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        try:
            export(body, timeout=20)
        except grpc.RpcError as refusal:
            return refusal.code()
        return None


@pytest.mark.fault("collector", "clients begin a request and stall", "other clients are served")
def test_clients_that_begin_and_stall_delay_no_other_client(tmp_path) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000000\r\n"
    with receiving(tmp_path) as collector, ExitStack() as connections:
        address = ("127.0.0.1", collector.ports["http"])
        waiting = [connections.enter_context(socket.create_connection(address)) for _ in range(200)]
        for number, one in enumerate(waiting):
            one.sendall(head + b"\r\n" * (number % 2))
        _takes(collector, tmp_path / "out.jsonl", b"meanwhil")
        answered, _, _ = select.select(waiting, [], [], 0)
        assert answered == [], "all of them were still waiting when the ordinary request was taken"


# ---------------------------------------------------------------- a backend


@pytest.mark.fault("collector", "a backend never answers", "only its own signal waits")
def test_a_backend_that_never_answers_stops_its_own_signal_only(tmp_path) -> None:
    with Backend() as backend:
        backend.delay_s = 5
        tree = sidecar(backends=("otlp_http:traces", "file:metrics"))
        environment = {"AI_OTEL_BACKEND_URL": backend.url, "AI_OTEL_QUEUE_BYTES": "2000000"}
        with engines(GOOD) as addresses:
            environment |= {"AI_OTEL_ENGINE_TARGET": addresses["good"], "AI_OTEL_SCRAPE_INTERVAL": "1s"}
            with running(tree, tmp_path, {**environment, "AI_OTEL_SCRAPE_TIMEOUT": "1s"}) as collector:
                with Senders(collector.ports["http"], batches(600, 50), give_up=True) as senders:
                    assert senders.join(30)
                assert senders.refused.keys() == {503}
                refused = senders.refused[503] * 50
                assert own(collector.own_metrics(), "otelcol_exporter_enqueue_failed_spans") == refused > 0
                assert "sending queue is full" in collector.output()
                before = len(exports(tmp_path / "out.jsonl"))
                eventually(lambda: len(exports(tmp_path / "out.jsonl")) >= before + 2, 10)
                assert memory_mb(collector.process.pid) < MEMORY_MB
            backend.delay_s = 0
