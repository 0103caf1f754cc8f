"""The rules' expressions, asked of a real Prometheus that the library's own histograms fill over OTLP."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from ai_otel.cli.slo import template
from ai_otel.emit.metrics import MetricEmitter
from ai_otel.engine_counters import EngineCounters
from ai_otel.slo.expressions import Expressions
from ai_otel.slo.objective import OBJECTIVES, parsed
from harness.kubernetes.charts import HOME, Tree
from harness.polling import eventually
from harness.telemetry.prometheus import running
from records import call, cancelled, choice, failed, inference, refused

pytestmark = pytest.mark.requires(part="prometheus")

SLO: Tree = yaml.safe_load(template().read_text())
SHIPPED: Tree = yaml.safe_load((HOME.parent / "examples/prometheus.yml").read_text())
# Seven valid calls, five of them without an error: one has a late first token, one is slow in its answer.
CALLS = [
    *(call(inference()) for _ in range(3)),
    call(inference(choice(first_token_s=1.5))),
    call(inference(choice(decode_s=4.0))),
    call(failed()),
    call(refused()),
    call(cancelled()),
    call(refused("400")),
]
EXPECTED = {"first_token": 1 / 5, "output_token": 1 / 5, "errors": 2 / 7}


def test_shares_are_those_of_the_calls(tmp_path: Path) -> None:
    """A whole threshold too, whose bound has another spelling when it comes over OTLP than from a page."""
    slo = parsed({**SLO, "objectives": {**SLO["objectives"], "goodput": {"objective": 95, "single_choice": True}}})
    expressions = Expressions(slo)
    with running({key: SHIPPED[key] for key in ("otlp", "storage")}, tmp_path) as prometheus:
        exporter = OTLPMetricExporter(f"{prometheus.url}/api/v1/otlp/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        resource = Resource({"service.name": "chat", "k8s.namespace.name": "models"})
        provider = MeterProvider([reader], resource)
        emitter = MetricEmitter(provider.get_meter("ai_otel.gen_ai"), provider.get_meter("ai_otel"), EngineCounters())

        def ask(expression: str) -> list[float]:
            return [each.value for each in prometheus.query(expression)]

        assert ask(f"absent_over_time({expressions.alive}[10m])") == [1]
        for _ in range(2):
            for record in CALLS:
                record.settle()
                emitter.emit(record, "fake", None)
            provider.force_flush()
            time.sleep(1)  # so that the rate is of a second, not of a millisecond
        provider.shutdown()
        eventually(lambda: bool(ask(expressions.error_ratio(slo.objectives["errors"], "5m"))), 30)
        for name, share in EXPECTED.items():
            assert ask(expressions.error_ratio(slo.objectives[name], "5m")) == [pytest.approx(share)], name
        assert ask(expressions.error_ratio(slo.objectives["token_interval"], "5m")) == []  # no gap was recorded
        bounds = {side: ask(bound) for side, bound in expressions.goodput(slo.objectives["goodput"], "5m").items()}
        assert bounds == {"lower": [pytest.approx(3 / 7)], "upper": [pytest.approx(4 / 7)]}
        assert ask(f"absent_over_time({expressions.alive}[10m])") == []
        assert set(EXPECTED) | {"token_interval", "goodput"} == set(OBJECTIVES)
