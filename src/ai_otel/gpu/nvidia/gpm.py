"""
NVML's performance metrics (GPM; Hopper and newer): activity of compute units, pipes and memory.

A value is the average between two samples, for a GPU or for one MIG instance. The first sample yields no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, calcsize
from typing import Any

from ai_otel.gpu.nvidia.calls import SUCCESS, Calls, scaled, support_of
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import percent, set_value

SHORTEST_S = 0.1
"""Minimum seconds between two comparable samples, by NVIDIA's documentation."""

METRICS: Mapping[int, tuple[str, str | None]] = {
    2: ("sm_activity", None),
    3: ("sm_occupancy", None),
    10: ("memory_bandwidth_utilization", None),
    5: ("pipe_activity", "tensor"),
    11: ("pipe_activity", "fp64"),
    12: ("pipe_activity", "fp32"),
    13: ("pipe_activity", "fp16"),
    4: ("pipe_activity", "int"),
}
"""GPM metric id in percent → field and key of a reading."""
PCIE_RATES: Mapping[int, str] = {20: "transmit", 21: "receive"}
"""GPM metric id in MiB/s → direction. Not exported: used to detect wraparounds of 32-bit byte counters."""
MIB = 1 << 20

_ROW = Struct(f"Iid{3 * calcsize('P')}x")
"""`nvmlGpmMetric_t`: metric id, return code, value. Names and unit are skipped."""


class Gpm:
    """The performance metrics of one GPU, or of its MIG instance `instance`."""

    def __init__(self, calls: Calls, handle: Any, instance: int | None = None) -> None:
        self._calls = calls
        self._library = calls.library
        self._handle = handle
        self._instance = instance
        self._metrics = (*METRICS, *PCIE_RATES) if instance is None else tuple(METRICS)
        self._samples: list[Any] = []
        self._request: Any = None
        self._rows: memoryview = memoryview(b"")
        self._sampled_at: float | None = None
        self._values: Mapping[int, float | Support] | Support | None = None

    def start(self) -> None:
        """Take the first sample, so that the first `read` has values."""
        self._values = self._supported() or self._sample()

    def read(self, reading: GpuReading) -> Mapping[str, float]:
        """Set the metrics of a reading. Returns the host link's traffic in bytes per second by direction."""
        now = self._calls.clock()
        if self._sampled_at is None or now - self._sampled_at >= SHORTEST_S:
            self._values = (None if self._samples else self._supported()) or self._sample()
        values = self._values
        if values is None:
            return {}
        for metric, (name, key) in METRICS.items():
            answer = values if isinstance(values, Support) else values[metric]
            set_value(reading, name, scaled(answer, percent), key)
        return {} if isinstance(values, Support) else self._rates(values)

    def close(self) -> None:
        """Free the sample buffers."""
        for sample in self._samples:
            self._calls.ask("nvmlGpmSampleFree", sample)
        self._samples = []

    def _supported(self) -> Support | None:
        """Allocate sample buffers, or return why GPM is unsupported."""
        answer = self._calls.ask("nvmlGpmQueryDeviceSupport", self._handle)
        if isinstance(answer, Support):
            return answer
        if not answer.isSupportedDevice:
            return self._calls.remember(("nvmlGpmQueryDeviceSupport", None), Support.NOT_SUPPORTED)
        return self._allocate()

    def _allocate(self) -> Support | None:
        for _ in range(2):
            sample = self._calls.ask("nvmlGpmSampleAlloc")
            if isinstance(sample, Support):
                self.close()
                return sample
            self._samples.append(sample)
        return None

    def _sample(self) -> Mapping[int, float | Support] | Support | None:
        """Take a sample and compare it with the previous one."""
        older, newer = self._samples
        if self._instance is None:
            taken = self._calls.ask("nvmlGpmSampleGet", self._handle, newer)
        else:
            taken = self._calls.ask("nvmlGpmMigSampleGet", self._handle, self._instance, newer)
        if isinstance(taken, Support):
            self._sampled_at = None
            return taken
        self._samples.reverse()
        first, self._sampled_at = self._sampled_at is None, self._calls.clock()
        return None if first else self._compare(older, newer)

    def _compare(self, older: Any, newer: Any) -> Mapping[int, float | Support] | Support:
        if self._request is None:
            # 20 kB in current bindings: the driver fills `numMetrics` rows only.
            self._request = self._library.c_nvmlGpmMetricsGet_t()
            self._request.version = self._library.NVML_GPM_METRICS_GET_VERSION
            self._request.numMetrics = len(self._metrics)
            for row, metric in zip(self._request.metrics, self._metrics, strict=False):
                row.metricId = metric
            begin = type(self._request).metrics.offset
            self._rows = memoryview(self._request).cast("B")[begin : begin + len(self._metrics) * _ROW.size]
        request = self._request
        request.sample1, request.sample2 = older, newer
        answer = self._calls.ask("nvmlGpmMetricsGet", request)
        if isinstance(answer, Support):
            return answer
        # Decoded from memory: the binding's attribute access costs several times as much.
        return {
            metric: value if code == SUCCESS else support_of(code)
            for metric, code, value in _ROW.iter_unpack(self._rows)
        }

    def _rates(self, values: Mapping[int, float | Support]) -> dict[str, float]:
        rates = {direction: values.get(metric) for metric, direction in PCIE_RATES.items()}
        return {way: rate * MIB for way, rate in rates.items() if isinstance(rate, (int, float)) and rate >= 0}
