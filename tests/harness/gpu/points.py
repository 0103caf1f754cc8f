"""The exported points of a sampler's snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ai_otel import semconv
from ai_otel.energy.accounts import Account
from ai_otel.energy.metrics import observe_energy
from ai_otel.gpu.metrics import observe
from ai_otel.gpu.snapshot import Snapshot

Labels = dict[str, Any]


class Exported:
    """A meter provider with all device instruments."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], accounts: Callable[[], Sequence[Account]] = tuple, **options: Any
    ) -> None:
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.hw = provider.get_meter(semconv.SCOPE_HW, "0", semconv.SCHEMA_URL_CORE)
        self.own = provider.get_meter(semconv.SCOPE, "0")
        observe(self.hw, self.own, snapshot, **options)
        observe_energy(self.own, accounts)

    def collect(self) -> Any:
        """Return the SDK's metrics data; `None` if there are no points."""
        return self._reader.get_metrics_data()

    def points(self) -> dict[str, list[tuple[Labels, Any]]]:
        """Return metric → attributes and value of each point."""
        data = self.collect()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
        return {
            metric.name: [(dict(point.attributes), getattr(point, "value", point)) for point in metric.data.data_points]
            for scope in scopes
            for metric in scope.metrics
        }
