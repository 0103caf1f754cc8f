"""
Looks at the devices on a thread of its own, so that nobody else ever waits for a driver.

Whoever wants to know reads `snapshot`, which is replaced as a whole. A look that takes long is taken less often. What a
vendor's library does wrong costs that vendor's values and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakMethod

from ai_otel.gpu.counters import Counters
from ai_otel.gpu.pace import Pace
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, GpuSource, Support, Unavailable
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

T = TypeVar("T")

ENERGY_INTERVAL_S = 0.1
ASK_AGAIN_S = 60.0
"""After that a library is tried again that could not be opened, or that lost a device; then twice as long each time."""
LONGEST_ASK_AGAIN_S = 3600.0
LOST_ELECTION_S = 5.0


class Look(NamedTuple):
    """What one look at one device told; counters are whole."""

    device: Device
    reading: GpuReading
    taken_s: float


XidKey = tuple[Device, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last look at everything. Times are `time.perf_counter`."""

    looks: tuple[Look, ...] = ()
    xids: Mapping[XidKey, int] = field(default_factory=dict)
    """Device and code → how many events."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Kind of look → how many were left out."""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Vendor → why its devices cannot be read, where something of it is installed."""
    taken_s: float | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """`hw.id` of all devices that answer."""
        return tuple(dict.fromkeys(look.device.id for look in self.looks if look.reading.status != "failed"))


class Listener(Protocol):
    """Who wants to hear of each look, on the sampler's thread."""

    def opened(self, devices: Sequence[Device]) -> None:
        """These are the devices from now on."""

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """A look at one energy counter."""

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """A look at all of one device."""

    def saw_event(self, event: GpuEvent) -> None:
        """The driver reported something."""

    def looked(self, time_s: float) -> None:
        """All energy counters were looked at."""


class _Open:
    """One vendor's source while it is open."""

    def __init__(self, vendor: str, source: GpuSource, devices: Sequence[Device]) -> None:
        self.vendor = vendor
        self.source = source
        self.devices = list(devices)
        self.lost: list[Device] = []


class Sampler:
    """
    Looks at everything each `interval_s`, and where there is a `listener` at the energy counters ten times a second.

    `make_sources` is asked on the sampler's thread, once for each life. `elected` says whether this process is the one
    that looks; `passed` hears how long each look took.
    """

    def __init__(
        self,
        make_sources: Callable[[], Mapping[str, GpuSource]],
        *,
        interval_s: float = 1.0,
        listener: Listener | None = None,
        elected: Callable[[], bool] = lambda: True,
        passed: Callable[[str, float], None] = lambda _kind, _seconds: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._make_sources = make_sources
        self.interval_s = interval_s
        self._listener = listener
        self._elected = elected
        self._passed = passed
        self._clock = clock
        self._begin_life()
        forget = WeakMethod(self._begin_life)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _begin_life(self) -> None:
        """Begin anew, also in the child of a fork: the libraries are the parent's, and nothing of them is called."""
        self.snapshot = Snapshot()
        self._sources: dict[str, GpuSource] = {}
        self._opened: dict[str, _Open] = {}
        self._troubles: dict[str, str] = {}
        self._ask_again: dict[str, tuple[float, float]] = {}
        self._counters = Counters()
        self._xids: Counter[XidKey] = Counter()
        self._told: set[str] = set()
        self._readings = Pace(self.interval_s)
        self._energy = Pace(ENERGY_INTERVAL_S)
        self._anew = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._guards: dict[str, Guard] = {}

    # ---------------------------------------------------------------- the thread

    def start(self) -> None:
        """Begin to look, once for each process."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="ai-otel gpu", daemon=True)
            # At interpreter exit no thread is to be had, and nobody would hear of the devices any more.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def find_anew(self) -> None:
        """At the next look find the devices anew: somebody knows of one that is not here. From any thread."""
        self._anew.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End, and let go of the libraries; `False` where the thread is still inside a driver after `timeout_s`."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        return not self.alive

    def _run(self) -> None:
        while not self._guard("election", self._elected):
            if self._stopping.wait(LOST_ELECTION_S):
                return
        made = self._guard("sources", self._make_sources)
        self._sources = dict(made or {})
        while not self._stopping.is_set():
            self.look()
            if self._stopping.wait(max(0.0, self._next_s() - self._clock())):
                break
        for opened in self._opened.values():
            self._guard(f"close {opened.vendor}", opened.source.close)

    def _next_s(self) -> float:
        times = [self._readings.due_s, *(due_s for due_s, _ in self._ask_again.values())]
        if self._listener is not None:
            times.append(self._energy.due_s)
        return min(times)

    def look(self) -> None:
        """Everything that is due now."""
        self._open()
        if self._listener is not None and self._energy.due(self._clock()):
            self._timed("energy", self._energy, self._look_at_energy)
        if self._readings.due(self._clock()):
            self._timed("readings", self._readings, self._look_at_all)

    def _timed(self, kind: str, pace: Pace, look: Callable[[], None]) -> None:
        started_s = self._clock()
        look()
        ended_s = self._clock()
        pace.took(started_s, ended_s)
        self._passed(kind, ended_s - started_s)

    # ---------------------------------------------------------------- opening

    def _open(self) -> None:
        now_s = self._clock()
        if self._anew.is_set():
            self._anew.clear()
            self._sources |= self._guard("sources", self._make_sources) or {}
            self._ask_again |= dict.fromkeys(self._sources, (now_s, ASK_AGAIN_S / 2))
        due = [vendor for vendor in self._sources if self._is_due(vendor, now_s)]
        for vendor in due:
            self._reopen(vendor, now_s)
        if due and self._listener is not None:
            devices = [device for opened in self._opened.values() for device in opened.devices]
            self._guard("listener", self._listener.opened, devices)

    def _is_due(self, vendor: str, now_s: float) -> bool:
        if vendor in self._ask_again:
            return now_s >= self._ask_again[vendor][0]
        return vendor not in self._opened and vendor not in self._troubles  # not yet tried

    def _reopen(self, vendor: str, now_s: float) -> None:
        source = self._sources[vendor]
        if vendor in self._opened:
            self._guard(f"close {vendor}", self._opened.pop(vendor).source.close)
        _, waited_s = self._ask_again.pop(vendor, (0.0, ASK_AGAIN_S / 2))
        again_s = min(2 * waited_s, LONGEST_ASK_AGAIN_S)
        devices = self._guard(f"open {vendor}", self._devices_of, vendor, source)
        if devices is not None:
            self._troubles.pop(vendor, None)
            self._opened[vendor] = _Open(vendor, source, devices)
        elif self._troubles.setdefault(vendor, "It could not be opened: see the log."):
            self._ask_again[vendor] = (now_s + again_s, again_s)

    def _devices_of(self, vendor: str, source: GpuSource) -> Sequence[Device] | None:
        try:
            return source.open()
        except Unavailable as trouble:
            # Of what is not installed nobody needs to hear, and it will not be while we run.
            self._troubles[vendor] = str(trouble) if trouble.installed else ""
            if trouble.installed:
                self._tell(f"ai-otel: {trouble}")
            return None

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning("%s", sentence)

    # ---------------------------------------------------------------- looking

    def _look_at_energy(self) -> None:
        listener = self._listener
        assert listener is not None  # noqa: S101 - nobody else calls it
        for opened in self._opened.values():
            for device in list(opened.devices):
                energy_j = self._ask(opened, device, opened.source.read_energy)
                whole_j = self._counters.energy_j(device, energy_j)
                self._guard("listener", listener.saw_energy, device, self._clock(), whole_j)
        self._guard("listener", listener.looked, self._clock())

    def _look_at_all(self) -> None:
        looks: list[Look] = []
        for opened in self._opened.values():
            for device in list(opened.devices):
                reading = self._ask(opened, device, opened.source.read)
                if reading is None:
                    continue
                self._counters.mend(device, reading)
                look = Look(device, reading, self._clock())
                looks.append(look)
                if self._listener is not None:
                    self._guard("listener", self._listener.saw_reading, device, look.taken_s, reading)
            looks += [Look(device, _lost(), self._clock()) for device in opened.lost]
            for event in self._guard(f"{opened.vendor} events", opened.source.events) or ():
                self._hear(event)
        self.snapshot = Snapshot(
            looks=tuple(looks),
            xids=dict(self._xids),
            skipped={"readings": self._readings.skipped, "energy": self._energy.skipped},
            troubles={vendor: trouble for vendor, trouble in self._troubles.items() if trouble},
            taken_s=self._clock(),
        )

    def _ask(self, opened: _Open, device: Device, question: Callable[[Device], T]) -> T | None:
        return self._guard(f"{opened.vendor} {question.__name__}", self._asked, opened, device, question)

    def _asked(self, opened: _Open, device: Device, question: Callable[[Device], T]) -> T | None:
        try:
            return question(device)
        except DeviceLost:
            opened.devices.remove(device)
            opened.lost.append(device)
            now_s = self._clock()
            self._ask_again.setdefault(opened.vendor, (now_s + ASK_AGAIN_S, ASK_AGAIN_S))
            self._tell(
                f"ai-otel: GPU {device.id} does not answer any more; the others go on. See what its driver says."
            )
            return None

    def _hear(self, event: GpuEvent) -> None:
        self._xids[event.device, event.code] += 1
        log.warning(
            "ai-otel: the driver of GPU %s reports XID %d: see NVIDIA's XID catalog.", event.device.id, event.code
        )
        if self._listener is not None:
            self._guard("listener", self._listener.saw_event, event)

    def _guard(self, name: str, call: Callable[..., T], *arguments: Any) -> T | None:
        if name not in self._guards:
            self._guards[name] = Guard(f"gpu {name}", alone=True)
        return self._guards[name](call, *arguments)


def _lost() -> GpuReading:
    """What there is to say of a device that does not answer: that."""
    reading = GpuReading(status="failed")
    reading.absent = {each.name: Support.LOST for each in fields(GpuReading) if each.name not in _ALWAYS}
    return reading


_ALWAYS = frozenset({"status", "absent", "power_window", "own_share", "process_memory_bytes"})
