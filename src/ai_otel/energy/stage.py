"""
The pipeline stage of devices: which GPUs a request ran on, and with `AI_OTEL_ENERGY` its share of their energy.

Everything heavy is imported when the stage starts, and only where `AI_OTEL_GPU` names a source.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from weakref import WeakMethod

from ai_otel.energy.absence import NO_COUNTER, NOT_SAMPLED, UNKNOWN_DEVICES
from ai_otel.record import Cost, Energy, Inference, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter

    from ai_otel.energy.attribution import EnergyAttribution
    from ai_otel.energy.feed import EnergyFeed
    from ai_otel.energy.ledger import Ledger
    from ai_otel.gpu.monitor import GpuMonitor
    from ai_otel.gpu.roles import Election
    from ai_otel.gpu.selection import OwnDevices, Selection
    from ai_otel.gpu.sharing.leader import LeaderElection
    from ai_otel.gpu.snapshot import Snapshot

log = logging.getLogger("ai_otel")

REMEMBERED = 64
"""Number of request spans kept for exemplars of GPU metrics."""

Resume = Callable[[RequestRecord], None]


class Price(Protocol):
    """What a GPU costs: `amount` in `currency` (ISO 4217) for each `unit`, `gpu_hour` or `kWh`."""

    @property
    def amount(self) -> float: ...  # noqa: D102 - described above
    @property
    def currency(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What the settings say of devices; `Settings` documents each."""

    sources: Sequence[str]
    interval_s: float = 1.0
    processes: bool = False
    lock_dir: str = ""
    energy: bool = False
    energy_shared: bool = False
    price: Price | None = None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment, which may name the server's own devices."""


def cost_of(energy: Energy, price: Price) -> Cost:
    """Return one request's share of what the devices cost."""
    used = energy.gpu_time_s / 3600 if price.unit == "gpu_hour" else energy.gpu_j / 3.6e6
    return Cost(used * price.amount, price.currency)


class DeviceStage:
    """
    Samples the devices of this process and defers records until their energy is known.

    `start`, `defer`, `emitted` and `stop` are called on the recorder's thread. `resume` is called on the sampler's
    thread, once for each deferred record, and has the next stage run on the recorder's thread. `follow` has every
    inference that starts appended to a queue. `engine_devices` returns how many devices the engine computes on.
    """

    def __init__(
        self,
        options: DeviceOptions,
        resume: Resume,
        follow: Callable[[deque[Inference]], None],
        *,
        engine_devices: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._options = options
        self._engine_devices = engine_devices
        self._resume_later = resume
        self._follow = follow
        self._monitor: GpuMonitor | None = None
        self._inherited: list[object] = []
        self._reset()
        reset = WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _after_fork(self) -> None:
        """
        Drop what belongs to the parent: its devices, and the records that wait there for their energy.

        Copies of the lock files' descriptors would keep the parent's locks. References to the vendors' libraries are
        kept, so that nothing in them is finalised in the child.
        """
        if self._election is not None:
            self._election.resign()
        if self._monitor is not None:
            self._inherited += [self._monitor.sampler, self._feed]
            self._monitor.sampler = None
        self._reset()

    def _reset(self) -> None:
        self._election: LeaderElection | None = None
        self._feed: EnergyFeed | None = None
        self._own: OwnDevices | None = None
        self._resume: Resume = self._resume_later
        self._running: deque[tuple[float, float, Context]] = deque(maxlen=REMEMBERED)

    # ---------------------------------------------------------------- start and stop

    def start(self, hw: Meter, own: Meter, *, observed: bool = False) -> None:
        """
        Start sampling, and create the instruments.

        `observed` says that the meters have them already, as a user's provider has in the child of a fork.
        """
        options = self._options
        if options.price is not None and not options.energy:
            log.warning(
                "ai-otel: AI_OTEL_PRICE needs each request's share of the GPUs: set AI_OTEL_ENERGY=true as well"
            )
        from ai_otel.gpu.registry import make_sources, wanted_sources

        # Called once: it reads every distribution's entry points, and logs unknown names.
        wanted = wanted_sources(options.sources)
        if not wanted:
            return
        from opentelemetry.metrics import NoOpMeter

        from ai_otel.energy.feed import EnergyFeed
        from ai_otel.gpu.selection import OwnDevices, OwnElection
        from ai_otel.gpu.sharing.leader import LeaderElection
        from ai_otel.gpu.sharing.lock_files import lock_directory
        from ai_otel.gpu.source import Options

        self._observe(hw, own, observed=observed)
        assert self._monitor is not None  # noqa: S101 - `_observe` made it
        # Without an exporter of metrics, leading would only keep the processes that have one from sampling.
        self._election = LeaderElection(
            lock_directory(options.lock_dir), stands=not isinstance(hw, NoOpMeter), serves=options.energy
        )
        election: Election = self._election
        self._own = own_devices = OwnDevices(options.variables, self._engine_devices)
        if options.energy:
            self._feed = EnergyFeed(
                self._attribute,
                shared=options.energy_shared,
                own=own_devices,
                detach=self._unfollow,
            )
            election = OwnElection(self._election, lambda: own_devices.selection)
        self._monitor.sample(
            lambda: make_sources(wanted, Options(processes=options.processes, holders=True)),
            listener=self._feed,
            election=election,
            lasting=False,
        ).start()

    def _observe(self, hw: Meter, own: Meter, *, observed: bool) -> None:
        from ai_otel.energy.metrics import observe_energy
        from ai_otel.gpu.monitor import GpuMonitor

        if self._monitor is None:
            self._monitor = GpuMonitor(self._options.interval_s, self._span_at)
        if not observed or not self._monitor.observed:
            self._monitor.observe(hw, own)
            observe_energy(own, lambda: self._feed.accounts if self._feed is not None else (), lambda: self.undeferred)

    def _attribute(self, ledger: Ledger, selection: Selection) -> EnergyAttribution:
        from ai_otel.energy.attribution import EnergyAttribution

        assert self._election is not None  # noqa: S101 - `start` made it
        attribution = EnergyAttribution(
            ledger,
            self._settled,
            gpu_ids=selection.ids,
            gpu_selection=selection.known_by,
            others_serving=self._election.others_serving,
        )
        self._follow(attribution.started)
        return attribution

    def _unfollow(self) -> None:
        self._follow(deque(maxlen=0))

    def stop(self, resume: Resume, timeout_s: float = 5.0) -> None:
        """Stop sampling. Deferred records go to `resume` on this thread, with what is known."""
        if self._monitor is None or self._monitor.sampler is None:
            return
        self._monitor.sampler.stop(timeout_s)
        if self._attribution is not None:
            self._resume = resume
            self._attribution.release_all(time.perf_counter())
        if self._election is not None:
            self._election.resign()

    # ---------------------------------------------------------------- records

    @property
    def _attribution(self) -> EnergyAttribution | None:
        return self._feed.attribution if self._feed is not None else None

    @property
    def snapshot(self) -> Snapshot:
        """The last sample of the devices; empty before the first, and in a process that does not sample."""
        from ai_otel.gpu.snapshot import Snapshot

        return self._monitor.snapshot if self._monitor is not None else Snapshot()

    @property
    def deferred(self) -> int:
        """Number of records that wait for their energy."""
        return self._attribution.deferred if self._attribution is not None else 0

    @property
    def undeferred(self) -> int:
        """Number of records that were emitted without waiting for their energy."""
        return self._feed.undeferred if self._feed is not None else 0

    def defer(self, record: RequestRecord) -> bool:
        """
        Keep a settled record until its energy is known, and return whether it was kept.

        A record that is not kept has the ids of its devices.
        """
        if self._monitor is None or self._monitor.sampler is None or self._own is None:
            return False
        attribution = self._attribution  # the sampler's thread may replace it
        if attribution is not None and attribution.defer(record):
            return True
        snapshot = self.snapshot
        # With a feed, the sampler's thread chooses.
        selection = self._own.selection if self._feed is not None else self._own.choose_from(snapshot)
        answering = snapshot.ids
        record.gpu_ids = tuple(each for each in selection.ids if each in answering)
        record.gpu_selection = selection.known_by if record.gpu_ids else None
        if self._options.energy and attribution is None and record.inferences:
            unknown = UNKNOWN_DEVICES if selection.known_by is None else NO_COUNTER
            record.energy_absence = unknown if snapshot.samples else NOT_SAMPLED
        return False

    def _settled(self, record: RequestRecord) -> None:
        if record.energy is not None and self._options.price is not None:
            record.cost = cost_of(record.energy, self._options.price)
        self._resume(record)

    def emitted(self, record: RequestRecord, context: Context) -> None:
        """Remember the span of a request, for exemplars of the devices' metrics."""
        started_s = record.started_s
        self._running.append((started_s, started_s + record.duration_s, context))

    def _span_at(self, time_s: float) -> Context | None:
        """Return the span of a request that ran at that moment (`time.perf_counter`, in seconds)."""
        for started_s, ended_s, context in reversed(list(self._running)):
            if started_s <= time_s <= ended_s:
                return context
        return None
