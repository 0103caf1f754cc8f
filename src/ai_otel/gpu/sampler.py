"""
Samples the devices on its own thread, so that no other thread waits for a driver.

Readers use `snapshot`, which is replaced as a whole. Slow collections run less often. A failure of one vendor's library
affects that vendor's values only.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakMethod

from ai_otel.gpu.counters import Counters
from ai_otel.gpu.interval import SamplingInterval
from ai_otel.gpu.roles import Election, Listener, OpenSource
from ai_otel.gpu.snapshot import DeviceSample, Snapshot, XidKey, lost_reading
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuSource, Outdated, Unavailable
from ai_otel.hooks.daemon import DaemonThread
from ai_otel.hooks.forks import FORKS, IMPORTS_S
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

T = TypeVar("T")

ENERGY_INTERVAL_S = 0.1
RETRY_S = 60.0
"""Seconds until a source that could not be opened, or that lost a device, is reopened. Doubles with each retry."""
MAX_RETRY_S = 3600.0
ELECTION_RETRY_S = 5.0


class Sampler:
    """
    Reads every device each `interval_s` seconds and, with a `listener`, the energy counters ten times a second.

    `make_sources` is called on the sampler's thread, once for each start and each rediscovery. With an `election`, only
    the process that wins it samples. `on_collected` receives the kind and the duration in seconds of each collection.
    The thread ends if no source can be opened, unless `lasting` is set.
    """

    def __init__(
        self,
        make_sources: Callable[[], Mapping[str, GpuSource]],
        *,
        interval_s: float = 1.0,
        listener: Listener | None = None,
        election: Election | None = None,
        on_collected: Callable[[str, float], None] = lambda _kind, _seconds: None,
        lasting: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._make_sources = make_sources
        self.interval_s = interval_s
        self._listener = listener
        self._election = election
        self._on_collected = on_collected
        self._lasting = lasting
        self._clock = clock
        self._reset()
        forget = WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _reset(self) -> None:
        """Reset all state. In the child of a fork, nothing of the parent's libraries is called."""
        self.snapshot = Snapshot()
        self._sources: dict[str, GpuSource] = {}
        self._opened: dict[str, OpenSource] = {}
        self._leads = False
        self._errors: dict[str, str] = {}
        self._retry_at_s: dict[str, float] = {}
        self._backoff_s: dict[str, float] = {}
        self._unresponsive: set[tuple[str, str | None]] = set()
        self._counters = Counters()
        self._xids: Counter[XidKey] = Counter()
        self._logged: set[str] = set()
        self._readings = SamplingInterval(self.interval_s)
        self._energy = SamplingInterval(ENERGY_INTERVAL_S)
        self._rediscovery = threading.Event()
        self._rediscovery.set()
        self._thread = DaemonThread("ai-otel gpu", self._run)
        self._stopping = self._thread.stopping
        self._guards: dict[str, Guard] = {}

    # ---------------------------------------------------------------- the thread

    def start(self) -> None:
        """Start the thread, once for each process."""
        # At interpreter exit threads can no longer be started, and nothing would be exported any more.
        self._thread.start()

    def rediscover(self) -> None:
        """Enumerate the devices again at the next collection. May be called from any thread."""
        self._rediscovery.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.alive

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Stop the thread and close the sources. Returns `False` if a driver call still blocks after `timeout_s`."""
        return self._thread.stop(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # A process that follows opens nothing as long as another one leads.
            if self._leads or self._vacant():
                self.collect()
            if self._leads and not (self._lasting or self._opened or self._retry_at_s):
                break
            wait_s = max(0.0, self._next_s() - self._clock()) if self._leads else ELECTION_RETRY_S
            if self._stopping.wait(wait_s):
                break
        self._close()

    def _close(self) -> None:
        for opened in self._opened.values():
            self._guard(f"close {opened.vendor}", opened.source.close)
        self._opened.clear()

    def _next_s(self) -> float:
        times = [self._readings.due_s, *self._retry_at_s.values()]
        if self._listener is not None:
            times.append(self._energy.due_s)
        return min(times)

    def collect(self) -> None:
        """Run every collection that is due."""
        self._open()
        if not self._leads or self._readings.due(self._clock()):
            led, self._leads = self._leads, self._stand()
            if not self._leads:
                self._follow(led=led)
                return
        if self._listener is not None and self._energy.due(self._clock()):
            self._timed("energy", self._energy, self._collect_energy)
        if self._readings.due(self._clock()):
            self._timed("readings", self._readings, self._collect_readings)

    # ---------------------------------------------------------------- the election

    def _vacant(self) -> bool:
        return self._election is None or bool(self._guard("election", self._election.vacant))

    def _stand(self) -> bool:
        """Return whether this process samples: it leads, or has no device that answers and no other process leads."""
        if self._election is None:
            return True
        if not any(opened.devices for opened in self._opened.values()):
            self._guard("election", self._election.step_down)
            return self._vacant()
        known = [device for opened in self._opened.values() for device in (*opened.devices, *opened.lost)]
        names = ["/".join(filter(None, device.key)) for device in known]
        return bool(self._guard("election", self._election.lead, names, self._readings.interval_s))

    def _follow(self, *, led: bool) -> None:
        """Leave the devices to the process that leads. They are opened again when it does not lead any more."""
        self._close()
        self.snapshot = Snapshot()
        self.rediscover()
        if led and self._listener is not None:
            self._notify(self._listener.closed)

    def _timed(self, kind: str, interval: SamplingInterval, collect: Callable[[], None]) -> None:
        started_s, others_s = self._clock(), other_threads_s()
        collect()
        ended_s = self._clock()
        interval.record(started_s, ended_s, other_threads_s() - others_s)
        if self._opened:
            with FORKS.held_off():
                self._on_collected(kind, ended_s - started_s)

    # ---------------------------------------------------------------- opening

    def _open(self) -> None:
        now_s = self._clock()
        if self._rediscovery.is_set():
            self._rediscovery.clear()
            with FORKS.held_off(IMPORTS_S):
                self._sources |= self._guard("sources", self._make_sources) or {}
            self._retry_at_s |= dict.fromkeys(self._sources, now_s)
            self._backoff_s.clear()
            for opened in self._opened.values():
                opened.lost.clear()  # an unresponsive device may have been removed
        due = [vendor for vendor in self._sources if self._is_due(vendor, now_s)]
        for vendor in due:
            self._reopen(vendor, now_s)
        if due and self._listener is not None:
            # The energy of some devices of a request is not its energy: those that do not answer belong to it.
            devices = [device for each in self._opened.values() for device in (*each.devices, *each.failed)]
            self._notify(self._listener.opened, devices)

    def _is_due(self, vendor: str, now_s: float) -> bool:
        return now_s >= self._retry_at_s.get(vendor, float("inf"))

    def _reopen(self, vendor: str, now_s: float) -> None:
        source, before = self._sources[vendor], self._opened.pop(vendor, None)
        if before is not None:
            self._guard(f"close {vendor}", source.close)
        self._retry_at_s.pop(vendor, None)
        with FORKS.held_off():  # the vendor's library is imported
            devices = self._guard(f"open {vendor}", self._devices_of, vendor, source)
        found = {device.key for device in devices or ()}
        # Drivers may not enumerate an unresponsive device, or not start. It stays lost until it is found again.
        known = [*before.lost, *(before.devices if devices is None else ())] if before is not None else []
        lost = [device for device in known if device.key not in found]
        opened = OpenSource(vendor, source, devices or (), lost, now_s)
        if devices is not None:
            self._errors.pop(vendor, None)
        elif self._errors.setdefault(vendor, "It could not be opened: see the log."):
            self._retry_later(vendor, now_s)
        if devices is not None or opened.failed:
            self._opened[vendor] = opened
        if opened.failed:
            self._retry_later(vendor, now_s)

    def _retry_later(self, vendor: str, now_s: float) -> None:
        """Schedule the next retry with exponential backoff."""
        if vendor not in self._retry_at_s:
            wait_s = min(2 * self._backoff_s.get(vendor, RETRY_S / 2), MAX_RETRY_S)
            self._backoff_s[vendor] = wait_s
            self._retry_at_s[vendor] = now_s + wait_s

    def _devices_of(self, vendor: str, source: GpuSource) -> Sequence[Device] | None:
        try:
            return source.open()
        except Unavailable as error:
            # A vendor that is not installed is neither logged nor retried.
            self._errors[vendor] = str(error) if error.installed else ""
            if error.installed:
                self._log_once(f"ai-otel: {error}")
            return None

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("%s", sentence)

    # ---------------------------------------------------------------- collections

    def _collect_energy(self) -> None:
        listener = self._listener
        assert listener is not None  # noqa: S101 - called with a listener only
        for opened in self._opened.values():
            for device in list(opened.devices):
                energy_j = self._query(opened, device, opened.source.read_energy)
                total_j = self._counters.energy_j(device, energy_j)
                self._notify(listener.saw_energy, device, self._clock(), total_j)
        self._notify(listener.collected, self._clock())

    def _collect_readings(self) -> None:
        samples: list[DeviceSample] = []
        for opened in self._opened.values():
            for device in list(opened.devices):
                reading = self._query(opened, device, opened.source.read)
                if reading is None:
                    continue
                self._log_recovery(device)
                self._counters.correct(device, reading)
                sample = DeviceSample(device, reading, self._clock())
                samples.append(sample)
                if self._listener is not None:
                    self._notify(self._listener.saw_reading, device, sample.taken_s, reading)
            samples += [DeviceSample(device, lost_reading(), self._clock()) for device in opened.failed]
            if not opened.failed:
                self._backoff_s.pop(opened.vendor, None)
            for event in self._guard(f"{opened.vendor} events", opened.source.events) or ():
                self._record_event(event)
        self.snapshot = Snapshot(
            samples=tuple(samples),
            xids=dict(self._xids),
            skipped=self._skipped() if self._opened else {},
            errors={vendor: error for vendor, error in self._errors.items() if error},
            taken_s=self._clock(),
            interval_s=self._readings.interval_s,
        )

    def _skipped(self) -> Mapping[str, int]:
        energy = {} if self._listener is None else {"energy": self._energy.skipped}
        return {"readings": self._readings.skipped, **energy}

    def _query(self, opened: OpenSource, device: Device, question: Callable[[Device], T]) -> T | None:
        return self._guard(f"{opened.vendor} {question.__name__}", self._call_device, opened, device, question)

    def _call_device(self, opened: OpenSource, device: Device, question: Callable[[Device], T]) -> T | None:
        try:
            return question(device)
        except Outdated:
            # At once, but not with each sample if that does not help.
            self._retry_at_s.setdefault(opened.vendor, max(self._clock(), opened.opened_s + RETRY_S))
            return None
        except DeviceLost:
            opened.devices.remove(device)
            opened.lost.append(device)
            self._retry_later(opened.vendor, self._clock())
            if not self._is_unresponsive(device.id):
                log.warning(
                    "ai-otel: GPU %s does not answer any more; the others are still sampled. See its driver's log.",
                    device.id,
                )
            self._unresponsive.add(device.key)
            return None

    def _log_recovery(self, device: Device) -> None:
        if device.key in self._unresponsive:
            self._unresponsive.discard(device.key)
            if not self._is_unresponsive(device.id):
                log.warning("ai-otel: GPU %s answers again.", device.id)

    def _is_unresponsive(self, device_id: str) -> bool:
        """Whether the device, or an instance of it, has been logged as lost."""
        return any(key[0] == device_id for key in self._unresponsive)

    def _record_event(self, event: GpuEvent) -> None:
        self._xids[event.device, event.code] += 1
        log.warning(
            "ai-otel: the driver of GPU %s reports XID %d: see NVIDIA's XID catalog.", event.device.id, event.code
        )
        if self._listener is not None:
            self._notify(self._listener.saw_event, event)

    def _notify(self, listen: Callable[..., None], *arguments: Any) -> None:
        with FORKS.held_off():
            self._guard("listener", listen, *arguments)

    def _guard(self, name: str, call: Callable[..., T], *arguments: Any) -> T | None:
        if name not in self._guards:
            # A source that fails is tried again. The energy accounts of a listener that failed would be wrong.
            self._guards[name] = Guard(f"gpu {name}", alone=True, lasting=name != "listener")
        return self._guards[name](call, *arguments)


def other_threads_s() -> float:
    """
    Return the CPU time of all other threads of this process in seconds.

    A collection may wait for the interpreter lock while they compute, up to 5 ms after each driver call. Sampling less
    often would not reduce that load.
    """
    return time.process_time() - time.thread_time()
