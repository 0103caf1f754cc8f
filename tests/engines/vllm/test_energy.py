"""Real vLLM beside a simulated NVML: the join of requests and energy, end to end. No figure here is of a real GPU."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import oracle
import pynvml
import pytest

from harness.clients.completions import Client, Sent
from harness.clients.vllm import PROMPT, STREAM, Start, completion
from harness.gpu import nvml
from harness.gpu.nvml import Gpu, Scenario
from harness.telemetry.sink import Sink

pytestmark = [pytest.mark.requires(part="vllm"), pytest.mark.requires(**nvml.REQUIRES)]

GPU = Gpu(power_w=[(0.0, 150.0), (600.0, 450.0)])


def power_w(at_s: float) -> float:
    return 150.0 + at_s / 2


def binding(directory: Path) -> str:
    """What `pip install 'ai-otel[nvidia]'` adds to vLLM's environment."""
    directory.mkdir()
    shutil.copy2(pynvml.__file__, directory)
    return str(directory)


def settled_buckets(sink: Sink) -> float:
    return sink.total("ai_otel.gpu.energy", ai_otel__energy__bucket="request")


def test_each_request_has_its_share_of_a_simulated_gpu_and_nothing_is_lost(
    start: Start, sink: Sink, tmp_path: Path
) -> None:
    began_s = time.monotonic()
    environment = {
        # Another server of this run may be the leader of the session's directory.
        "AI_OTEL_LOCK_DIR": tempfile.mkdtemp(),
        **nvml.environment(Scenario([GPU]), tmp_path, origin_s=began_s),
        "PYTHONPATH": binding(tmp_path / "nvidia"),
        "AI_OTEL_ENERGY": "true",
        "AI_OTEL_PRICE": "3.60 USD/gpu_hour",
    }
    with start(environment=environment) as server:
        client = Client(server.url)
        # The first request starts the sampler: the next ones are seen from their beginning to their end.
        client.run([Sent("first", "/v1/completions", completion(PROMPT, max_tokens=5))], concurrency=1)
        assert sink.wait(lambda: sink.total("hw.power") > 0)
        time.sleep(1.0)
        load = [
            Sent("load", "/v1/completions", completion(PROMPT * (1 + number % 3), max_tokens=400, **STREAM))
            for number in range(12)
        ]
        client.run(load, concurrency=4)
        ended_s = time.monotonic()
        assert sink.wait(lambda: all(sent.trace_id in sink.trees() for sent in client.sent))
        spans = [sink.trees()[sent.trace_id][0] for sent in load]
        reported = sum(span.attributes["ai_otel.energy.gpu"] for span in spans)
        assert sink.wait(lambda: settled_buckets(sink) >= reported * (1 - 1e-9))

    for span in spans:
        assert list(span.attributes["ai_otel.gpu.ids"]) == [GPU.uuid]
        assert span.attributes["ai_otel.energy.method"] in ("affine", "bin_tokens", "time_share", "exclusive")
        assert span.attributes["ai_otel.energy.uncertainty"] > 0.04
        assert span.attributes["ai_otel.energy.gpu"] > 0
        assert 1 <= span.attributes["ai_otel.gpu.batch.mean"] <= 4.5
        # A counter that steps ten times a second, read ten times a second: a bin more or less.
        mean_w = span.attributes["ai_otel.gpu.power.mean"]
        assert 0.75 * power_w(0) <= mean_w <= 1.25 * power_w(ended_s - began_s + 1)
        assert span.attributes["ai_otel.cost.currency"] == "USD"
        gpu_s = span.attributes["ai_otel.gpu.time"]
        assert span.attributes["ai_otel.cost.amount"] == pytest.approx(gpu_s * 3.60 / 3600)
    by_all = sum(span.attributes["ai_otel.gpu.time"] for span in spans)
    busy_s = (max(span.end_ns for span in spans) - min(span.start_ns for span in spans)) / 1e9
    assert by_all <= busy_s * 1.05
    # What the spans carry is what the bucket holds. The first request was seen from its middle, so it may have no
    # figure of its own, and is in the bucket all the same.
    seen_late = sink.trees()[client.sent[0].trace_id][0]
    first = seen_late.attributes.get("ai_otel.energy.gpu")
    unsaid = settled_buckets(sink) - reported - (first or 0.0)
    most = (
        0.0 if first is not None else power_w(ended_s - began_s) * ((seen_late.end_ns - seen_late.start_ns) / 1e9 + 0.3)
    )
    assert -0.01 * reported <= unsaid <= most + 0.01 * reported
    buckets = sink.total("ai_otel.gpu.energy")
    counter_j = sink.total("hw.energy") - GPU.energy_base_j
    assert 0 < buckets <= counter_j + 2 * power_w(ended_s - began_s + 10)
    assert sink.total("ai_otel.gpu.conservation.error") == pytest.approx(0.0, abs=1e-9)
    assert sink.total("ai_otel.request.energy") == len(
        [sent for sent in client.sent if sent is not client.sent[0] or first is not None]
    )
    (info,) = {dict(labels)["hw.model"] for _, labels in sink.points("hw.gpu.info")}
    assert "simulated" in info
    assert oracle.check_spans(sink.traces) == []
    assert oracle.check_metrics(sink.metrics) == []
    methods = sorted({span.attributes["ai_otel.energy.method"] for span in spans})
    print(f"simulated GPU: {reported:.1f} J of {buckets:.1f} J are 12 requests', by {', '.join(methods)}")
