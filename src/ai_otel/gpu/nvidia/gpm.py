"""
NVML's performance metrics (GPM; Hopper and newer): how busy compute units, pipes and memory were between two samples.

A value is a mean over the time between two looks, for the whole GPU or for one MIG instance. The first look has no
earlier sample, so it tells nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, calcsize
from typing import Any

from ai_otel.gpu.nvidia.calls import SUCCESS, Calls, percent, scaled, support_of
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import tell

SHORTEST_S = 0.1
"""Two samples that lie closer together than this are not comparable, says NVIDIA."""

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
"""Metric → field and key of a reading, in percent."""
PCIE_RATES: Mapping[int, str] = {20: "transmit", 21: "receive"}
"""Metric → direction, in MiB/s. Not told: they say how often a 32-bit byte counter wrapped."""
MIB = 1 << 20

_ROW = Struct(f"Iid{3 * calcsize('P')}x")
"""`nvmlGpmMetric_t`: metric, return code, value; not its names and its unit."""


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
        self._told: Mapping[int, float | Support] | Support | None = None

    def start(self) -> None:
        """Take the first sample, so that the first look can tell."""
        self._told = self._supported() or self._look()

    def read(self, reading: GpuReading) -> Mapping[str, float]:
        """Write the metrics, and return what went over the host link in bytes per second, by direction."""
        now = self._calls.clock()
        if self._sampled_at is None or now - self._sampled_at >= SHORTEST_S:
            self._told = (None if self._samples else self._supported()) or self._look()
        told = self._told
        if told is None:
            return {}
        for metric, (name, key) in METRICS.items():
            answer = told if isinstance(told, Support) else told[metric]
            tell(reading, name, scaled(answer, percent), key)
        return {} if isinstance(told, Support) else self._rates(told)

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            self._calls.ask("nvmlGpmSampleFree", sample)
        self._samples = []

    def _supported(self) -> Support | None:
        """Why there is nothing to be had, or samples to take."""
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

    def _look(self) -> Mapping[int, float | Support] | Support | None:
        """Take a sample, and compare it with the one before."""
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
            # 20 kB in today's bindings, and longer with each version: the driver reads as many as we ask for.
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
        # As memory, like the numbered values: by the binding's attributes it costs several times as much.
        return {
            metric: value if code == SUCCESS else support_of(code)
            for metric, code, value in _ROW.iter_unpack(self._rows)
        }

    def _rates(self, told: Mapping[int, float | Support]) -> dict[str, float]:
        rates = {direction: told.get(metric) for metric, direction in PCIE_RATES.items()}
        return {way: rate * MIB for way, rate in rates.items() if isinstance(rate, (int, float)) and rate >= 0}
