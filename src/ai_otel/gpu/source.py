"""
Where device values come from: the interface of every vendor's source, and what one look at a device yields.

A value that a device does not tell is `None`, and `absent` says why. Units stand in the names; they are converted once,
in the file that talks to the vendor's library. Counters are the device's own and may begin again at zero: `counters.py`
makes them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class Support(str, Enum):
    """Whether a device tells a value, and why not."""

    OK = "ok"
    NOT_SUPPORTED = "not_supported"
    """This device or its driver has no such value."""
    NO_PERMISSION = "no_permission"
    NOT_FOUND = "not_found"
    """The vendor's library is too old to have the function."""
    LOST = "lost"
    """The device does not answer any more."""
    INVALID = "invalid"
    """What it told cannot be: a sentinel, no number, out of range."""
    ERROR = "error"


class Unavailable(Exception):
    """
    A source cannot be opened here. `str()` is one sentence that says why and what to do.

    `installed` tells whether anything of this vendor is here at all: where it is not, nobody needs to hear of it.
    """

    def __init__(self, sentence: str, *, installed: bool) -> None:
        super().__init__(sentence)
        self.installed = installed


class DeviceLost(Exception):
    """The device does not answer any more; the source goes on with the others."""


@dataclass(frozen=True, slots=True)
class Device:
    """
    One device, or one part of it (`instance_id`) that has values of its own.

    `id` is `hw.id`: the GPU's UUID, the same for a GPU and its parts. Constants stand here and on no point.
    """

    id: str
    vendor: str
    model: str | None = None
    name: str | None = None
    driver_version: str | None = None
    firmware_version: str | None = None
    serial_number: str | None = None
    pci_bus_id: str | None = None
    instance_id: str | None = None
    """MIG GPU instance, tile or core; `None` for the whole device."""
    instance_profile: str | None = None
    instance_uuid: str | None = None
    """By which the kubelet and CUDA know this part, such as `MIG-…`."""

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells it apart from every other device and part of this host."""
        return self.id, self.instance_id


@dataclass(slots=True)
class GpuReading:
    """
    What one look at one device told. Ratios are 0 to 1, counters are the device's own since its last reset.

    Source of the meanings: the metrics of the same subject in the contract (`schema/hardware.yaml`).
    """

    utilization: float | None = None
    """Share of time in which any kernel ran."""
    encoder_utilization: float | None = None
    decoder_utilization: float | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Without what is reserved."""
    memory_reserved_bytes: int | None = None
    memory_bandwidth_utilization: float | None = None
    memory_controller_utilization: float | None = None
    sm_activity: float | None = None
    sm_occupancy: float | None = None
    pipe_activity: Mapping[str, float] = field(default_factory=dict)
    """By `ai_otel.gpu.pipe`."""
    energy_j: float | None = None
    power_w: float | None = None
    power_window: str | None = None
    """`average` or `instant`."""
    power_limit_w: Mapping[str, float] = field(default_factory=dict)
    """By `ai_otel.gpu.limit.type`."""
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    """By `hw.sensor_location`: `gpu`, `memory`."""
    temperature_limit_c: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By `hw.sensor_location` and `hw.limit_type`."""
    fan_speed_ratio: Mapping[str, float] = field(default_factory=dict)
    """By fan."""
    frequency_hz: Mapping[str, int] = field(default_factory=dict)
    """By `ai_otel.gpu.clock`."""
    throttle_s: Mapping[str, float] = field(default_factory=dict)
    """Counters by `ai_otel.gpu.throttle.reason`."""
    io_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Counters by `ai_otel.gpu.link` and `network.io.direction` (`receive`, `transmit`, as the GPU sees it)."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Counters by `error.type`: `corrected`, `uncorrected`."""
    status: str | None = None
    """`hw.state`: `ok`, `degraded`, `failed`, `predicted_failure`, `needs_cleaning`."""
    own_share: float | None = None
    """
    Which share of the device's recent compute time was this container's: 1 where no other process was seen to compute.
    """
    process_memory_bytes: Mapping[int, int] = field(default_factory=dict)
    """By process id as this process sees it; only where it was asked for."""
    absent: dict[str, Support] = field(default_factory=dict)
    """Name of a field above, or `field.key` of a mapping's entry → why it has no value."""


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """Something that the driver reported on a device: an XID."""

    device: Device
    code: int
    time_s: float
    """`time.perf_counter` when we heard of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a source may be told. Read from the settings by the wiring, never by a source."""

    processes: bool = False
    """Read which process holds how much memory: costly on some drivers."""
    tpu_address: str = "localhost:8431"
    neuron_monitor: str = "neuron-monitor"


class GpuSource(Protocol):
    """
    One vendor. Made with `Options`, then opened; everything after that happens on one thread.

    Its module imports nothing of the vendor's at its top: `open` does.
    """

    vendor: str
    """`hw.vendor`, as in `SOURCES`."""

    def open(self) -> Sequence[Device]:
        """Every device and part that this process may see. Raises `Unavailable`."""

    def read(self, device: Device) -> GpuReading:
        """Everything about one device. Raises `DeviceLost`; any other trouble is an absent value."""

    def read_energy(self, device: Device) -> float | None:
        """The energy counter alone in joules, by the cheapest call; `None` where there is none. Raises `DeviceLost`."""

    def events(self) -> Sequence[GpuEvent]:
        """What the driver reported since the last call; does not wait."""

    def close(self) -> None:
        """Let go of the library. Not called in the child of a fork."""
