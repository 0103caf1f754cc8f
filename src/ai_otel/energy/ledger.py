"""
The energy of a replica's devices, shared among its requests as they run, and booked without remainder.

Nothing here reads a device, an engine or a clock: whoever does tells what it saw, in seconds of one monotonic clock and
in joules, and calls `settle`. A bin is the time between two looks at which the counter had changed. It is settled, in
order, as soon as all that ran in it is known; what is not known after `patience_s` is taken as it is.

In each bin the idle floor of the time without a request is set aside, and what remains is divided (`sharing.py`). The
devices of a replica work together, so their energies are added up, and each request's share of each is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ai_otel.energy.accounts import Account, Bin, Books, Busy
from ai_otel.energy.apportionment import Division, Step, StepMember, divide, union_s
from ai_otel.energy.cost_model import StepCost
from ai_otel.energy.timeline import Flight, Part
from ai_otel.gpu.source import Device
from ai_otel.record import Energy, Progress

DeviceKey = tuple[str, str | None]
"""`Device.key`."""


class Settled(NamedTuple):
    """One inference that is over."""

    key: Hashable
    energy: Energy | None
    """`None` where it is not known."""
    booked_j: float
    """What the bucket `request` holds of it, known or not."""


class _Edge(NamedTuple):
    """Where a bin ends, and which part of each device was ours in it."""

    time_s: float
    others: bool
    own: Mapping[DeviceKey, float | None]


class _Opened(NamedTuple):
    """One device's part of a bin."""

    books: Books
    energy_j: float
    own: float | None


class Ledger:
    """
    The books of one replica.

    With `shared`, devices that others compute on are apportioned by the part of their time that is ours; without, they
    have no books to show, and requests on them no energy.
    """

    def __init__(
        self, devices: Sequence[Device], *, shared: bool = False, patience_s: float = 10.0, gap_s: float = 5.0
    ) -> None:
        self._books: dict[DeviceKey, Books] = {
            each.key: Books(each.key, part=each.instance_id is not None, gap_s=gap_s) for each in devices
        }
        self._shared = shared
        self._patience_s = patience_s
        self._gap_s = gap_s
        self._flights: dict[Hashable, Flight] = {}
        self._steps: deque[Step] = deque()
        self._steps_until_s: float | None = None
        self._edges: deque[_Edge] = deque()
        self._lead: DeviceKey | None = None
        self._settled_s: float | None = None
        self._latest_s = float("-inf")
        # Of this bin and two before: what a request used at its begin may stand there.
        self._powers_w: deque[float] = deque(maxlen=3)
        self._at_rest = False
        self.cost = StepCost()
        self.others = False
        """Whether other servers, or other front ends of our engine, compute on the devices: set by whoever knows."""

    # ---------------------------------------------------------------- requests

    @property
    def in_flight(self) -> int:
        """Inferences that are not settled yet."""
        return len(self._flights)

    def begin(self, key: Hashable, start_s: float, model: str | None = None) -> None:
        """An inference was handed to the engine. What was settled before we heard of it is lost to it."""
        flight = self._flights.setdefault(key, Flight(key, start_s, model))
        if self._settled_s is not None:
            flight.blind_s = max(0.0, self._settled_s - start_s)

    def name(self, key: Hashable, model: str) -> None:
        """The model that it asks for, where that was not known at once."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.model = model

    def progress(
        self,
        key: Hashable,
        time_s: float,
        told: Progress,
        *,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
    ) -> None:
        """How far it was at `time_s`."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.progress(time_s, told, scheduled_s, first_token_s)

    def end(
        self,
        key: Hashable,
        end_s: float,
        *,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
        tokens: Progress | None = None,
        final: bool = True,
    ) -> None:
        """It is over. Where more will be known in a moment, tell it with `final=False` first and then again."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.end(end_s, scheduled_s, first_token_s, tokens, final=final)

    def drop(self, key: Hashable) -> None:
        """The engine did not work for it."""
        self._flights.pop(key, None)

    def step(self, start_s: float, end_s: float, members: Sequence[StepMember]) -> None:
        """One step of an engine that tells its members: in order of the steps' ends, and before the members' ends."""
        self._steps.append(Step(start_s, end_s, members))
        self._steps_until_s = end_s
        for member in members:
            flight = self._flights.get(member.key)
            if flight is not None and flight.scheduled_s is None:
                flight.scheduled_s = max(flight.start_s, start_s)

    # ---------------------------------------------------------------- devices

    def has(self, device: DeviceKey) -> bool:
        """Whether it is one of the replica's."""
        return device in self._books

    def add_energy(self, device: DeviceKey, time_s: float, energy_j: float | None) -> None:
        """A look at a device's counter; `None` where it has none or did not answer."""
        books = self._books[device]
        if energy_j is None:
            books.absent = True
            books.ring.lose(time_s)
            return
        books.absent = False
        if not books.ring.add(time_s, energy_j) or time_s <= self._latest_s:
            return
        # The first device sets the bins. Where it falls silent another one does.
        if self._lead in {None, device} or time_s - self._latest_s > self._gap_s:
            self._lead, self._latest_s = device, time_s
            self._edges.append(_Edge(time_s, self.others, {key: self._own(key, time_s) for key in self._books}))

    def add_own_share(self, device: DeviceKey, time_s: float, share: float | None) -> None:
        """Which part of the device's recent compute time was this container's."""
        self._books[device].see_share(time_s, share)

    def _own(self, device: DeviceKey, time_s: float) -> float | None:
        books = self._books[device]
        if not books.shared(time_s):
            return 1.0
        return books.own_share if self._shared else None

    def accounts(self) -> Sequence[Account]:
        """The state of the books, without those of devices that are not ours to tell about."""
        shown = [books for key, books in self._books.items() if self._own(key, self._latest_s) is not None]
        accounts = (books.account() for books in shown)
        return [account for account in accounts if account is not None]

    # ---------------------------------------------------------------- settling

    def settle(self, now_s: float) -> Sequence[Settled]:
        """Settle what can be settled; the inferences that are over by it."""
        for flight in self._flights.values():
            if flight.end_s is not None and now_s - flight.end_s > self._patience_s:
                flight.final = True
        unresolved = [flight for flight in self._flights.values() if not flight.resolved]
        while self._edges and self._ready(self._edges[0], now_s, unresolved):
            edge = self._edges.popleft()
            if self._settled_s is not None:
                self._settle_bin(self._settled_s, edge)
            self._settled_s = edge.time_s
        while self._steps and self._steps[0].end_s < max(self._settled_s or 0.0, now_s - 2 * self._patience_s):
            self._steps.popleft()
        return [self._close(flight) for flight in list(self._over(now_s))]

    def _ready(self, edge: _Edge, now_s: float, unresolved: Sequence[Flight]) -> bool:
        if not all(books.ready(edge.time_s, now_s, self._gap_s) for books in self._books.values()):
            return False
        if now_s - edge.time_s > self._patience_s:
            return True
        since_s = self._settled_s if self._settled_s is not None else edge.time_s
        if self._steps_until_s is not None:
            running = self._running(since_s, edge.time_s)
            return self._steps_until_s >= edge.time_s or all(flight.end_s is not None for flight in running)
        if not any(_reaches(flight, since_s, edge.time_s) for flight in unresolved):
            return True
        # Alone it gets everything, whatever it did.
        return sum(1 for _ in self._running(since_s, edge.time_s)) <= 1

    def _running(self, since_s: float, until_s: float) -> Iterator[Flight]:
        return (flight for flight in self._flights.values() if _reaches(flight, since_s, until_s))

    def _over(self, now_s: float) -> Iterator[Flight]:
        for flight in self._flights.values():
            if flight.end_s is not None and flight.final:
                settled = self._settled_s is not None and self._settled_s >= flight.end_s
                late = now_s - flight.end_s > self._patience_s + self._gap_s
                flight.torn = flight.torn or (late and not settled)
                if settled or late:
                    yield flight

    def _close(self, flight: Flight) -> Settled:
        del self._flights[flight.key]
        quanta = [books.ring.quantum_s for books in self._books.values() if books.ring.quantum_s is not None]
        energy = flight.energy(max(quanta)) if quanta else None
        return Settled(flight.key, energy, sum(flight.given_j.values()))

    def _settle_bin(self, start_s: float, edge: _Edge) -> None:
        end_s, whole_s = edge.time_s, edge.time_s - start_s
        opened = [
            _Opened(books, energy_j, edge.own[key])
            for key, books in self._books.items()
            if (energy_j := books.open(start_s, end_s)) is not None
        ]
        parts = self._parts(start_s, end_s)
        torn = edge.others or len(opened) < len(self._books) or any(each.own is None for each in opened)
        for part in parts:
            part.flight.torn |= torn
        busy_s = union_s(parts, whole_s) if parts else 0.0
        division = divide(parts, busy_s, list(self._steps_in(start_s, end_s)), self.cost) if parts else None
        booked = Bin(whole_s, busy_s, _claims(parts, division), others=edge.others, settled_down=self._at_rest)
        shared = [each.books.book(booked, each.energy_j, each.own) for each in opened]
        if division is not None:
            self._give(parts, division, shared)
            if division.work is not None and not torn:
                self.cost.learn(division.work, sum(each.energy_j for each in shared))
        power_w = sum(each.energy_j for each in opened) / whole_s
        self._powers_w.append(power_w)
        least_w, most_w = min(self._powers_w), max(self._powers_w)
        batch = sum(each.run_s for each in parts) / busy_s if parts else 0.0
        for part in parts:
            part.flight.ran(part.run_s, power_w, least_w, most_w, batch)
            part.flight.forget(end_s)
        self._at_rest = not parts

    @staticmethod
    def _give(parts: Sequence[Part], division: Division, shared: Sequence[Busy]) -> None:
        energy_j, time_s = sum(each.energy_j for each in shared), sum(each.time_s for each in shared)
        floors = [each.floor_j for each in shared]
        floor_j = None if None in floors else sum(each for each in floors if each is not None)
        for part, share in zip(parts, division.shares, strict=True):
            idle_j = None if floor_j is None else floor_j * share
            part.flight.give(division.method, energy_j * share, idle_j, time_s * share)

    def _parts(self, start_s: float, end_s: float) -> list[Part]:
        parts = [part for each in self._flights.values() if (part := each.part(start_s, end_s)) is not None]
        waiting = [part for part in parts if part.flight.waiting]
        if not waiting or len(waiting) == len(parts):
            return parts
        # It has been waited for long enough: beside others that run it is taken to wait, too.
        for part in waiting:
            part.flight.blind_s += part.run_s
        return [part for part in parts if not part.flight.waiting]

    def _steps_in(self, start_s: float, end_s: float) -> Iterator[tuple[Step, float]]:
        for step in self._steps:
            inside_s = min(end_s, step.end_s) - max(start_s, step.start_s)
            if inside_s > 0:
                yield step, inside_s / (step.end_s - step.start_s)


def _claims(parts: Sequence[Part], division: Division | None) -> Mapping[str | None, float]:
    """Model → the share of the time with requests that is its own."""
    claims: dict[str | None, float] = {}
    for part, share in zip(parts, division.shares if division is not None else (), strict=True):
        claims[part.flight.model] = claims.get(part.flight.model, 0.0) + share
    return claims


def _reaches(flight: Flight, since_s: float, until_s: float) -> bool:
    """Whether it can have run in this stretch."""
    return flight.runs_from_s < until_s and (flight.end_s is None or flight.end_s > since_s)
