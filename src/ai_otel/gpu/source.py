"""
Interface of the vendors' GPU sources, and the reading that a source returns for a device.

An unavailable value is `None`, and `absent` states the reason. Units are part of the names; the vendor's package does
the conversion. Counters are the device's own and may restart at zero: `counters.py` corrects resets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class Support(str, Enum):
    """Whether a value is available, or why not."""

    OK = "ok"
    NOT_SUPPORTED = "not_supported"
    """The device or its driver does not provide the value."""
    NO_PERMISSION = "no_permission"
    NOT_FOUND = "not_found"
    """The vendor's library is too old to provide the function."""
    LOST = "lost"
    """The device has stopped answering."""
    INVALID = "invalid"
    """The reported value is a sentinel, not a number, or out of range."""
    ERROR = "error"


class Unavailable(Exception):
    """
    A source cannot be opened. `str()` is one sentence with the reason and the next step.

    `installed` states whether a driver or device of this vendor is present. If not, the sentence is not logged.
    """

    def __init__(self, sentence: str, *, installed: bool) -> None:
        super().__init__(sentence)
        self.installed = installed


class DeviceLost(Exception):
    """The device has stopped answering. The source continues with the others."""


class Outdated(DeviceLost):
    """
    The enumeration is not valid any more: the source has to be opened again.

    Instances were created or removed, or the library was shut down by other code of this process.
    """


@dataclass(frozen=True, slots=True)
class Device:
    """
    One device, or one instance of it (`instance_id`) with values of its own.

    `id` is `hw.id`: the GPU's UUID, shared by a GPU and its instances. The other fields are constants of the device,
    exported by `hw.gpu.info` only.
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
    """UUID of the instance as used by the kubelet and CUDA, such as `MIG-…`."""
    index: int | None = None
    """Position of the device in the driver's own enumeration, which a variable may name."""

    @property
    def key(self) -> tuple[str, str | None]:
        """Unique key of the device or instance on this host."""
        return self.id, self.instance_id


@dataclass(slots=True)
class GpuReading:
    """
    One sample of one device. Ratios are 0 to 1; counters are the device's own since its last reset.

    The contract (`schema/hardware.yaml`) defines the meaning of each value, under the corresponding metric.
    """

    utilization: float | None = None
    """Share of the time during which at least one kernel was running."""
    encoder_utilization: float | None = None
    decoder_utilization: float | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Excludes reserved memory."""
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
    """This container's share of the device's recent compute time; 1 if no other process was computing."""
    held: bool | None = None
    """Whether this process or a descendant holds the device. Read only with `Options.holders`."""
    process_memory_bytes: Mapping[int, int] = field(default_factory=dict)
    """By process id in this process's PID namespace. Read only with `Options.processes`."""
    absent: dict[str, Support] = field(default_factory=dict)
    """Field name, or `field.key` for an entry of a mapping → why it has no value."""


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """An event that the driver reported for a device: an XID error."""

    device: Device
    code: int
    time_s: float
    """`time.perf_counter` in seconds when the event was received."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the sources. The wiring fills them from the settings; sources read no settings."""

    processes: bool = False
    """Read the memory of each process, which is slow on some drivers."""
    holders: bool = False
    """Read whether this process or a descendant holds each device."""
    tpu_address: str = "localhost:8431"
    neuron_monitor: str = "neuron-monitor"


class GpuSource(Protocol):
    """
    Source of one vendor. Constructed with `Options`, then opened. All calls come from one thread.

    A source may have an attribute `unopened`: devices that exist and could not be opened. They are reported as failed,
    and the source is opened again later.

    The module imports the vendor's library in `open`, never at module level.
    """

    vendor: str
    """Value of `hw.vendor`, and the key in `SOURCES`."""

    def open(self) -> Sequence[Device]:
        """Open the library and return every device and instance visible to this process. Raises `Unavailable`."""

    def read(self, device: Device) -> GpuReading:
        """Read all values of one device. Raises `DeviceLost`; any other failure is an absent value."""

    def read_energy(self, device: Device) -> float | None:
        """Read the energy counter in joules, by the cheapest call; `None` if unavailable. Raises `DeviceLost`."""

    def events(self) -> Sequence[GpuEvent]:
        """Return the events since the last call, without waiting."""

    def close(self) -> None:
        """Release the library. Not called in the child of a fork."""
