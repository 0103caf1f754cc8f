"""Entry points in an interpreter of their own."""

from __future__ import annotations

from isolated import python


def test_an_entry_point_loads_nothing_heavy() -> None:
    code = """
import sys
from ai_otel.entrypoints import site
site()
heavy = ["opentelemetry.sdk", "opentelemetry.trace", "prometheus_client", "grpc", "vllm", "torch"]
print([name for name in heavy if name in sys.modules])
"""
    assert python(code, AI_OTEL_ENABLED="true").strip() == "[]"
