"""
Google TPUs by the metrics service that libtpu serves beside a workload: gRPC, on the same host.

The service is available only while a process holds the chips. `libtpu` and `tpu-info` are neither imported nor
required. Power, energy, temperature and error counters are unavailable.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_otel.gpu import TRACES
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Support, Unavailable
from ai_otel.gpu.tpu.metric_service import decode_response, encode_request, message_classes
from ai_otel.gpu.values import SharedQuery, fill_reasons, percent, set_value, valid_count

METHOD = "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric"
TIMEOUT_S = 2.0
DUTY_CYCLE = "tpu.runtime.tensorcore.dutycycle.percent"
MEMORY_TOTAL = "tpu.runtime.hbm.memory.total.bytes"
MEMORY_USED = "tpu.runtime.hbm.memory.usage.bytes"
BANDWIDTH = "tpu.runtime.hbm.utilization.percent"
METRICS = (DUTY_CYCLE, MEMORY_TOTAL, MEMORY_USED, BANDWIDTH)

# gRPC status codes that mean that libtpu does not answer. The others concern a single metric.
SILENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
_SUPPORT = {
    "UNIMPLEMENTED": Support.NOT_FOUND,
    "NOT_FOUND": Support.NOT_FOUND,
    "INVALID_ARGUMENT": Support.NOT_FOUND,
    "PERMISSION_DENIED": Support.NO_PERMISSION,
    "UNAUTHENTICATED": Support.NO_PERMISSION,
}

Answers = Mapping[str, "Mapping[int, float] | Support"]


class TpuSource:
    """The chips of the workload that libtpu serves. All calls come from one thread."""

    vendor = "tpu"

    def __init__(self, options: Options) -> None:
        self._address = options.tpu_address
        self._channel: Any = None
        self._rpc_error: type[Exception] = Exception
        self._ask: Callable[..., bytes] | None = None
        self._query = SharedQuery(self._answers)
        self._chips: Sequence[int] = ()

    def open(self) -> Sequence[Device]:
        """Connect and return every chip. Raises `Unavailable`."""
        here = any(Path(trace).exists() for trace in TRACES["tpu"])
        try:
            grpc = importlib.import_module("grpc")
            message_classes()
        except ImportError:
            raise Unavailable("TPU metrics require gRPC: pip install grpcio protobuf.", installed=here) from None
        self._rpc_error = grpc.RpcError
        # libtpu listens on this host: no proxy of the environment applies.
        self._channel = grpc.insecure_channel(self._address, options=[("grpc.enable_http_proxy", 0)])
        self._ask = self._channel.unary_unary(METHOD)
        try:
            self._chips = chips_of(self._query.answer(None))
        except DeviceLost:
            self._chips = ()
        if not self._chips:
            self.close()
            raise Unavailable(
                f"No TPU metrics service answers at {self._address}: libtpu serves it while a workload holds the "
                "chips; try again while one runs.",
                installed=here,
            )
        return [Device(id=f"tpu-{chip}", vendor=self.vendor) for chip in self._chips]

    def read(self, device: Device) -> GpuReading:
        """Read all values of one chip, from answers shared by all chips. Raises `DeviceLost`."""
        answers = self._query.answer(device.key)
        chip = int(device.id.removeprefix("tpu-"))
        if chip not in chips_of(answers):
            raise DeviceLost(f"libtpu does not report chip {chip} any more")
        reading = GpuReading()
        set_value(reading, "utilization", percent(mean(self._of(answers, DUTY_CYCLE, chip))))
        for field, metric in (("memory_total_bytes", MEMORY_TOTAL), ("memory_used_bytes", MEMORY_USED)):
            values = self._of(answers, metric, chip)
            set_value(reading, field, values if isinstance(values, Support) else valid_count(int(sum(values))))
        set_value(reading, "memory_bandwidth_utilization", percent(mean(self._of(answers, BANDWIDTH, chip))))
        return fill_reasons(reading)

    def read_energy(self, device: Device) -> float | None:
        """Return `None`: libtpu reports no energy, and none is estimated."""
        del device
        return None

    def events(self) -> Sequence[GpuEvent]:
        """Return nothing: the service reports no events."""
        return ()

    def close(self) -> None:
        """Close the connection."""
        channel, self._channel, self._ask = self._channel, None, None
        self._query = SharedQuery(self._answers)
        if channel is not None:
            channel.close()

    def _answers(self) -> Answers:
        return {metric: self._answer(metric) for metric in METRICS}

    def _answer(self, metric: str) -> Mapping[int, float] | Support:
        """Return a metric's values by chip or core, or why it is unavailable. Raises `DeviceLost`."""
        assert self._ask is not None, "open it first"  # noqa: S101
        try:
            return decode_response(self._ask(encode_request(metric), timeout=TIMEOUT_S)) or Support.NOT_SUPPORTED
        except self._rpc_error as error:
            status = error.code().name  # type: ignore[attr-defined]  # a failed call
            if status in SILENT:
                raise DeviceLost(f"libtpu does not answer ({status})") from None
            return _SUPPORT.get(status, Support.ERROR)
        except ValueError:  # not a message of this protocol
            return Support.INVALID

    def _of(self, answers: Answers, metric: str, chip: int) -> Sequence[float] | Support:
        """
        Return a metric's values for one chip.

        v2, v3 and v7x have two cores with a number and a memory each: with k times as many values as chips, k
        consecutive numbers belong to one chip.
        """
        values = answers[metric]
        if isinstance(values, Support):
            return values
        cores, rest = divmod(len(values), len(self._chips))
        place = self._chips.index(chip)
        if rest or not cores:
            return [values[chip]] if chip in values else Support.INVALID
        return [values[number] for number in sorted(values)[place * cores : (place + 1) * cores]]


def chips_of(answers: Answers) -> Sequence[int]:
    """Return the chips' numbers: those of the duty cycle, which is reported by chip, else those of the memory."""
    for metric in (DUTY_CYCLE, MEMORY_TOTAL):
        values = answers[metric]
        if not isinstance(values, Support):
            return sorted(values)
    return ()


def mean(values: Sequence[float] | Support) -> float | Support:
    """Return the mean over a chip's cores."""
    return values if isinstance(values, Support) else sum(values) / len(values)
