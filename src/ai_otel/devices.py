"""The wiring of the devices: sources → sampler → metrics, and the join of their energy with requests."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakMethod

from ai_otel.gpu import SOURCES, TRACES
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, GpuSource, Options
from ai_otel.record import Cost, Energy, RequestRecord
from ai_otel.settings import Price, Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter

    from ai_otel.energy.accounts import Account
    from ai_otel.energy.attribution import EnergyJoin
    from ai_otel.energy.ledger import Ledger
    from ai_otel.gpu.leader import LeaderElection
    from ai_otel.gpu.sampler import Sampler
    from ai_otel.gpu.snapshot import Snapshot
    from ai_otel.recorder import Recorder

log = logging.getLogger("ai_otel")

GROUP = "ai_otel.gpu_sources"
"""The entry point group by which third parties bring sources."""
REMEMBERED = 64
"""How many spans of requests are kept, for exemplars."""


def wanted_sources(names: Sequence[str]) -> dict[str, str]:
    """Vendor → `module:class` of the sources that `AI_OTEL_GPU` names; a name that nobody knows is told."""
    known = {**SOURCES, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}
    if "none" in names or not names:
        return {}
    if "auto" in names:
        return {vendor: place for vendor, place in known.items() if is_here(vendor)}
    for name in names:
        if name not in known:
            log.warning("ai-otel: AI_OTEL_GPU names %s; known are auto, none, %s", name, ", ".join(sorted(known)))
    return {name: known[name] for name in names if name in known}


def is_here(vendor: str) -> bool:
    """Whether a device node speaks for it, or none is needed to."""
    traces = TRACES.get(vendor)
    return traces is None or any(Path(trace).exists() for trace in traces)


def make_sources(names: Sequence[str], options: Options) -> dict[str, GpuSource]:
    """The sources that `AI_OTEL_GPU` names, not yet opened."""
    return imported(wanted_sources(names), options)


def imported(places: Mapping[str, str], options: Options) -> dict[str, GpuSource]:
    """The sources that are at these places, not yet opened; one that cannot be imported is told and left out."""
    made: dict[str, GpuSource] = {}
    for vendor, place in places.items():
        module, _, name = place.partition(":")
        try:
            made[vendor] = getattr(importlib.import_module(module), name)(options)
        except (ImportError, AttributeError) as error:
            log.warning("ai-otel: GPU source %s (%s) cannot be used: %s", vendor, place, error)
    return made


def cost_of(energy: Energy, price: Price) -> Cost:
    """One request's share of what the devices cost."""
    used = energy.gpu_time_s / 3600 if price.unit == "gpu_hour" else energy.gpu_j / 3.6e6
    return Cost(used * price.amount, price.currency)


def joinable(devices: Sequence[Device]) -> list[Device]:
    """
    The devices whose energy requests may share: a GPU that is given out in parts is nobody's as a whole.

    A part that can be given out has a UUID of its own (MIG); tiles of one card have none, and stay with their card.
    """
    divided = {device.id for device in devices if device.instance_uuid is not None}
    return [
        device
        for device in devices
        if device.instance_uuid is not None or (device.instance_id is None and device.id not in divided)
    ]


class Devices:
    """
    What this process knows of its devices. `start` is called once the providers are there, on the recorder's thread.

    Everything heavy is imported then, and only where `AI_OTEL_GPU` is not `none`.
    """

    def __init__(self, settings: Settings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder
        self._duration: Histogram | None = None
        self._inherited: list[object] = []
        self._begin_life()
        forget = WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _after_fork(self) -> None:
        """
        What the parent had is the parent's: its devices, and the records that wait there for their energy.

        The locks would be ours as well for as long as our copies of their files are open. What holds the vendors'
        libraries is kept, so that nothing in there thinks that it is over.
        """
        if self._election is not None:
            self._election.resign()
        self._inherited += [self._sampler, self._join]
        self._begin_life()

    def _begin_life(self) -> None:
        self._sampler: Sampler | None = None
        self._election: LeaderElection | None = None
        self._join: EnergyJoin | None = None
        self._ledger: Ledger | None = None
        self._shared: Sequence[Device] = ()
        self._accounts: Sequence[Account] = ()
        self._handed_back: Callable[[RequestRecord], None] = self._recorder.again
        self._running: deque[tuple[float, float, Context]] = deque(maxlen=REMEMBERED)

    # ---------------------------------------------------------------- life

    def start(self, hw: Meter, own: Meter, *, observed: bool = False) -> None:
        """
        Begin to look, and make the instruments.

        `observed` says that the meters have them already, as a user's provider has in the child of a fork.
        """
        settings = self._settings
        if settings.price is not None and not settings.energy:
            log.warning(
                "ai-otel: AI_OTEL_PRICE needs each request's share of the GPUs: set AI_OTEL_ENERGY=true as well"
            )
        # Asked once: it reads every distribution's entry points, and tells of a name that nobody knows.
        wanted = wanted_sources(settings.gpu)
        if not wanted:
            return
        from ai_otel import semconv
        from ai_otel.gpu.leader import LeaderElection
        from ai_otel.gpu.sampler import Sampler
        from ai_otel.instruments import histogram

        if not observed or self._duration is None:
            self._duration = histogram(own, semconv.AI_OTEL_GPU_PASS_DURATION)
            self._observe(hw, own)
        duration = self._duration
        self._election = LeaderElection()
        if settings.energy:
            self._election.serve()
        self._sampler = Sampler(
            lambda: imported(wanted, Options(processes=settings.gpu_processes)),
            interval_s=settings.gpu_interval,
            listener=self if settings.energy else None,
            elected=self._election.won,
            on_collected=lambda kind, took_s: duration.record(took_s, {semconv.AI_OTEL_GPU_PASS: kind}),
            lasting=False,
        )
        self._sampler.start()

    def _observe(self, hw: Meter, own: Meter) -> None:
        from ai_otel.energy.metrics import observe_energy
        from ai_otel.gpu.metrics import observe

        interval_s = self._settings.gpu_interval
        observe(hw, own, lambda: self.snapshot, interval_s=interval_s, running=self._at)
        observe_energy(own, lambda: self._accounts)

    def stop(self, deliver: Callable[[RequestRecord], None], timeout_s: float = 5.0) -> None:
        """End; records that wait for their energy go to `deliver` with what is known."""
        if self._sampler is not None:
            self._sampler.stop(timeout_s)
            if self._join is not None:
                self._handed_back = deliver
                self._join.release_all(time.perf_counter())
            if self._election is not None:
                self._election.resign()

    @property
    def snapshot(self) -> Snapshot:
        """The last look at the devices; empty before the first, and in a process that does not look."""
        from ai_otel.gpu.snapshot import Snapshot

        return self._sampler.snapshot if self._sampler is not None else Snapshot()

    @property
    def held(self) -> int:
        """How many records wait for their energy."""
        return self._join.held if self._join is not None else 0

    # ---------------------------------------------------------------- requests, on the recorder's thread

    def hold(self, record: RequestRecord) -> bool:
        """Keep a complete record until its energy is known; else say at once on which devices it ran."""
        if self._sampler is None:
            return False
        if self._join is not None and self._join.hold(record):
            return True
        record.gpu_ids = self._sampler.snapshot.ids
        return False

    def emitted(self, record: RequestRecord, context: Context) -> None:
        """A request has its span: an exemplar for what the devices did meanwhile."""
        started_s = record._started / 1e9  # noqa: SLF001 - the clock that `begin_clock` set
        self._running.append((started_s, started_s + record.duration_s, context))

    def _at(self, time_s: float) -> Context | None:
        """The span of a request that ran at that moment."""
        for started_s, ended_s, context in reversed(list(self._running)):
            if started_s <= time_s <= ended_s:
                return context
        return None

    # ---------------------------------------------------------------- looks, on the sampler's thread

    def opened(self, devices: Sequence[Device]) -> None:
        """`Listener` of the sampler: the first devices that are found are those whose energy is shared."""
        if self._join is None:
            self._shared = joinable(devices)

    def _begin_to_share(self) -> None:
        from ai_otel.energy.attribution import EnergyJoin
        from ai_otel.energy.ledger import Ledger

        assert self._election is not None  # noqa: S101 - `start` made it
        shared = self._shared
        self._ledger = Ledger(shared, shared=self._settings.energy_shared)
        self._join = EnergyJoin(
            self._ledger,
            self._settle,
            gpu_ids=[device.id for device in shared],
            others_serving=self._election.others_serving,
        )
        self._recorder.begun = self._join.begun

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """A look at one energy counter. Without any there is nothing to share, and no request is kept waiting."""
        if self._join is None and energy_j is not None and device in self._shared:
            self._begin_to_share()
        if self._ledger is not None and self._ledger.has(device.key):
            self._ledger.add_energy(device.key, time_s, energy_j)

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """A look at all of one device."""
        if self._ledger is not None and self._join is not None and self._ledger.has(device.key):
            self._ledger.add_own_share(device.key, time_s, reading.own_share)
            self._join.spells.add_reading(device, time_s, reading)

    def saw_event(self, event: GpuEvent) -> None:
        """The driver reported something."""
        if self._join is not None:
            self._join.spells.add_xid(event)

    def collected(self, time_s: float) -> None:
        """All counters were looked at: settle, and publish the books, which are whole between two looks only."""
        if self._join is not None and self._ledger is not None:
            self._join.look(time_s)
            self._accounts = self._ledger.accounts()

    def _settle(self, record: RequestRecord) -> None:
        if record.energy is not None and self._settings.price is not None:
            record.cost = cost_of(record.energy, self._settings.price)
        self._handed_back(record)
