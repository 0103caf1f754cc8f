"""
Google TPUs by the metrics service that libtpu has beside a workload: gRPC, on the same host.

It is there only while a process holds the chips. `libtpu` and `tpu-info` are neither imported nor needed: two messages
of their published protocol are enough (`tpu_metrics.py`). There is no power, energy, temperature or error counter.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_otel.gpu import TRACES
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Support, Unavailable
from ai_otel.gpu.tpu.metric_service import asked, told
from ai_otel.gpu.values import OneLook, counted, ratio, settled, tell

METHOD = "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric"
WITHIN_S = 2.0
DUTY_CYCLE = "tpu.runtime.tensorcore.dutycycle.percent"
MEMORY_TOTAL = "tpu.runtime.hbm.memory.total.bytes"
MEMORY_USED = "tpu.runtime.hbm.memory.usage.bytes"
BANDWIDTH = "tpu.runtime.hbm.utilization.percent"
METRICS = (DUTY_CYCLE, MEMORY_TOTAL, MEMORY_USED, BANDWIDTH)

# Status codes of gRPC by name: what is no answer at all, and what is one about this metric.
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
    """The chips of the workload beside which libtpu serves. All calls come from one thread."""

    vendor = "tpu"

    def __init__(self, options: Options) -> None:
        self._address = options.tpu_address
        self._channel: Any = None
        self._rpc_error: type[Exception] = Exception
        self._ask: Callable[..., bytes] | None = None
        self._look = OneLook(self._answers)
        self._chips: Sequence[int] = ()

    def open(self) -> Sequence[Device]:
        """Connect, and find every chip. Raises `Unavailable`."""
        here = any(Path(trace).exists() for trace in TRACES["tpu"])
        try:
            grpc = importlib.import_module("grpc")
        except ImportError:
            raise Unavailable("TPU metrics come by gRPC: pip install grpcio.", installed=here) from None
        self._rpc_error = grpc.RpcError
        # libtpu listens on this host; a proxy of the environment is not for it.
        self._channel = grpc.insecure_channel(self._address, options=[("grpc.enable_http_proxy", 0)])
        self._ask = self._channel.unary_unary(METHOD)
        try:
            self._chips = chips_of(self._look.answer(None))
        except DeviceLost:
            self._chips = ()
        if not self._chips:
            self.close()
            raise Unavailable(
                f"Nothing tells of TPU chips at {self._address}: libtpu does while a workload holds them; "
                "look again when it runs.",
                installed=here,
            )
        return [Device(id=f"tpu-{chip}", vendor=self.vendor) for chip in self._chips]

    def read(self, device: Device) -> GpuReading:
        """Everything about one chip: its share of the answers that serve all chips. Raises `DeviceLost`."""
        answers = self._look.answer(device.key)
        chip = int(device.id.removeprefix("tpu-"))
        if chip not in chips_of(answers):
            raise DeviceLost(f"libtpu does not tell of chip {chip} any more")
        reading = GpuReading()
        tell(reading, "utilization", percent(mean(self._of(answers, DUTY_CYCLE, chip))))
        for field, metric in (("memory_total_bytes", MEMORY_TOTAL), ("memory_used_bytes", MEMORY_USED)):
            values = self._of(answers, metric, chip)
            tell(reading, field, values if isinstance(values, Support) else counted(int(sum(values))))
        tell(reading, "memory_bandwidth_utilization", percent(mean(self._of(answers, BANDWIDTH, chip))))
        return settled(reading)

    def read_energy(self, device: Device) -> float | None:
        """None: a TPU tells no energy, and none is estimated."""
        del device
        return None

    def events(self) -> Sequence[GpuEvent]:
        """None: the service tells no events."""
        return ()

    def close(self) -> None:
        """Let go of the connection."""
        channel, self._channel, self._ask = self._channel, None, None
        self._look = OneLook(self._answers)
        if channel is not None:
            channel.close()

    def _answers(self) -> Answers:
        return {metric: self._answer(metric) for metric in METRICS}

    def _answer(self, metric: str) -> Mapping[int, float] | Support:
        """One metric by the number of a chip or core; or why it is not there. Raises `DeviceLost`."""
        assert self._ask is not None, "open it first"  # noqa: S101
        try:
            return told(self._ask(asked(metric), timeout=WITHIN_S)) or Support.NOT_SUPPORTED
        except self._rpc_error as error:
            status = error.code().name  # type: ignore[attr-defined]  # of a call that failed
            if status in SILENT:
                raise DeviceLost(f"libtpu does not answer ({status})") from None
            return _SUPPORT.get(status, Support.ERROR)
        except ValueError:  # no message of this protocol
            return Support.INVALID

    def _of(self, answers: Answers, metric: str, chip: int) -> Sequence[float] | Support:
        """
        A metric's values of one chip. v2, v3 and v7x have two cores, of which each has a number and a memory: where
        there are k times as many numbers as chips, k in a row are one chip's.
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
    """By the duty cycle, which is told of chips; by the memory, where that is all there is."""
    for metric in (DUTY_CYCLE, MEMORY_TOTAL):
        values = answers[metric]
        if not isinstance(values, Support):
            return sorted(values)
    return ()


def mean(values: Sequence[float] | Support) -> float | Support:
    """Over a chip's cores."""
    return values if isinstance(values, Support) else sum(values) / len(values)


def percent(value: float | Support) -> float | Support:
    """From percent, 0 to 1."""
    return value if isinstance(value, Support) else ratio(value / 100)
