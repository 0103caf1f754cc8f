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
from typing import Any, Protocol, TypeVar
from weakref import WeakMethod

from ai_otel.gpu.counters import Counters
from ai_otel.gpu.interval import Pace
from ai_otel.gpu.snapshot import Look, Snapshot, XidKey, lost
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, GpuSource, Unavailable
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

T = TypeVar("T")

ENERGY_INTERVAL_S = 0.1
ASK_AGAIN_S = 60.0
"""After that a library is tried again that could not be opened, or that lost a device; then twice as long each time."""
LONGEST_ASK_AGAIN_S = 3600.0
LOST_ELECTION_S = 5.0


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
    that looks; `passed` hears how long each look took. Unless it is `lasting`, the thread ends where nothing is to be
    read.
    """

    def __init__(
        self,
        make_sources: Callable[[], Mapping[str, GpuSource]],
        *,
        interval_s: float = 1.0,
        listener: Listener | None = None,
        elected: Callable[[], bool] = lambda: True,
        passed: Callable[[str, float], None] = lambda _kind, _seconds: None,
        lasting: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._make_sources = make_sources
        self.interval_s = interval_s
        self._listener = listener
        self._elected = elected
        self._passed = passed
        self._lasting = lasting
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
        self._ask_again: dict[str, float] = {}
        self._waited: dict[str, float] = {}
        self._silent: set[tuple[str, str | None]] = set()
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
            if not (self._lasting or self._opened or self._ask_again):
                break
            if self._stopping.wait(max(0.0, self._next_s() - self._clock())):
                break
        for opened in self._opened.values():
            self._guard(f"close {opened.vendor}", opened.source.close)

    def _next_s(self) -> float:
        times = [self._readings.due_s, *self._ask_again.values()]
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
        started_s, others_s = self._clock(), _others_s()
        look()
        ended_s = self._clock()
        pace.took(started_s, ended_s, _others_s() - others_s)
        if self._opened:
            self._passed(kind, ended_s - started_s)

    # ---------------------------------------------------------------- opening

    def _open(self) -> None:
        now_s = self._clock()
        if self._anew.is_set():
            self._anew.clear()
            self._sources |= self._guard("sources", self._make_sources) or {}
            self._ask_again |= dict.fromkeys(self._sources, now_s)
            self._waited.clear()
            for opened in self._opened.values():
                opened.lost.clear()  # where devices come and go, one that does not answer may have gone
        due = [vendor for vendor in self._sources if self._is_due(vendor, now_s)]
        for vendor in due:
            self._reopen(vendor, now_s)
        if due and self._listener is not None:
            devices = [device for opened in self._opened.values() for device in opened.devices]
            self._guard("listener", self._listener.opened, devices)

    def _is_due(self, vendor: str, now_s: float) -> bool:
        if vendor in self._ask_again:
            return now_s >= self._ask_again[vendor]
        return vendor not in self._opened and vendor not in self._troubles  # not yet tried

    def _reopen(self, vendor: str, now_s: float) -> None:
        source, before = self._sources[vendor], self._opened.pop(vendor, None)
        if before is not None:
            self._guard(f"close {vendor}", source.close)
        self._ask_again.pop(vendor, None)
        devices = self._guard(f"open {vendor}", self._devices_of, vendor, source)
        if devices is not None:
            self._troubles.pop(vendor, None)
            self._opened[vendor] = opened = _Open(vendor, source, devices)
            found = {device.key for device in devices}
            # A driver may leave out what does not answer. It is lost all the same, until it is found.
            opened.lost += [device for device in before.lost if device.key not in found] if before is not None else ()
            if opened.lost:
                self._ask_later(vendor, now_s)
        elif self._troubles.setdefault(vendor, "It could not be opened: see the log."):
            self._ask_later(vendor, now_s)

    def _ask_later(self, vendor: str, now_s: float) -> None:
        """After a minute; when that was in vain, after twice as long."""
        if vendor not in self._ask_again:
            wait_s = min(2 * self._waited.get(vendor, ASK_AGAIN_S / 2), LONGEST_ASK_AGAIN_S)
            self._waited[vendor] = wait_s
            self._ask_again[vendor] = now_s + wait_s

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
                self._answered(device)
                self._counters.mend(device, reading)
                look = Look(device, reading, self._clock())
                looks.append(look)
                if self._listener is not None:
                    self._guard("listener", self._listener.saw_reading, device, look.taken_s, reading)
            looks += [Look(device, lost(), self._clock()) for device in opened.lost]
            if not opened.lost:
                self._waited.pop(opened.vendor, None)
            for event in self._guard(f"{opened.vendor} events", opened.source.events) or ():
                self._hear(event)
        self.snapshot = Snapshot(
            looks=tuple(looks),
            xids=dict(self._xids),
            skipped=self._skipped() if self._opened else {},
            troubles={vendor: trouble for vendor, trouble in self._troubles.items() if trouble},
            taken_s=self._clock(),
            interval_s=self._readings.interval_s,
        )

    def _skipped(self) -> Mapping[str, int]:
        energy = {} if self._listener is None else {"energy": self._energy.skipped}
        return {"readings": self._readings.skipped, **energy}

    def _ask(self, opened: _Open, device: Device, question: Callable[[Device], T]) -> T | None:
        return self._guard(f"{opened.vendor} {question.__name__}", self._asked, opened, device, question)

    def _asked(self, opened: _Open, device: Device, question: Callable[[Device], T]) -> T | None:
        try:
            return question(device)
        except DeviceLost:
            opened.devices.remove(device)
            opened.lost.append(device)
            self._ask_later(opened.vendor, self._clock())
            if not self._is_silent(device.id):
                log.warning(
                    "ai-otel: GPU %s does not answer any more; the others go on. See what its driver says.", device.id
                )
            self._silent.add(device.key)
            return None

    def _answered(self, device: Device) -> None:
        if device.key in self._silent:
            self._silent.discard(device.key)
            if not self._is_silent(device.id):
                log.warning("ai-otel: GPU %s answers again.", device.id)

    def _is_silent(self, device_id: str) -> bool:
        """Whether the device, or a part of it, was told to be lost."""
        return any(key[0] == device_id for key in self._silent)

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


def _others_s() -> float:
    """
    CPU time of all other threads of this process.

    What they computed during a look is time in which the look may have waited for the interpreter, up to 5 ms after
    each call of a driver. That is the server's load, which looking less often would not lessen.
    """
    return time.process_time() - time.thread_time()
