"""Any events in any order: the accounts sum to what the counters said, and nothing is given twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from ai_otel.energy.apportionment import StepMember
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.gpu.counters import Counters
from ai_otel.gpu.source import Device
from ai_otel.record import Progress

DEVICES = [Device("GPU-0", "nvidia"), Device("GPU-1", "nvidia"), Device("GPU-2", "nvidia", instance_id="1")]
BUCKETS = {"request", "idle", "overhead", "other"}

times = st.floats(0.0, 0.5)
device = st.integers(0, 2)
request = st.integers(0, 5)
tokens = st.builds(
    Progress, st.none() | st.integers(0, 9000), st.none() | st.integers(0, 9000), st.integers(0, 500), st.booleans()
)
moment = st.none() | st.floats(-2.0, 2.0)

powers = st.sampled_from([5.0, 100.0, 100.0, 100.0, 400.0])
# Most of the time everything is in order, or a mistake could never be seen.
rest = st.tuples(st.just("sample all"), st.integers(1, 8), powers)
serve = st.tuples(st.just("serve"), st.sets(request, min_size=1), st.integers(1, 12), powers, st.booleans())
events = st.one_of(
    *[rest, serve] * 4,
    st.tuples(st.just("pass"), times),
    st.tuples(st.just("use"), device, st.floats(0.0, 300.0)),
    st.tuples(st.just("sample"), device),
    st.tuples(st.just("reset"), device, st.floats(0.0, 50.0)),
    st.tuples(st.just("lose"), device),
    st.tuples(st.just("share"), device, st.none() | st.floats(0.0, 1.0)),
    st.tuples(st.just("others"), st.booleans()),
    st.tuples(st.just("begin"), request, st.floats(-1.0, 0.0)),
    st.tuples(st.just("progress"), request, tokens, moment, moment),
    st.tuples(st.just("end"), request, moment, moment, st.none() | tokens, st.booleans()),
    st.tuples(st.just("drop"), request),
    st.tuples(st.just("step"), st.lists(st.tuples(request, st.integers(0, 2048), st.integers(0, 9000)), max_size=4)),
    st.tuples(st.just("settle"), st.floats(0.0, 20.0)),
)


@dataclass
class World:
    """Counters and requests, beside the ledger: independent sums of its input."""

    shared: bool
    ledger: Ledger = field(init=False)
    counters: Counters = field(default_factory=Counters)
    now_s: float = 0.0
    counters_j: list[float] = field(default_factory=lambda: [500.0, 0.0, 1e6])
    seen_j: list[float | None] = field(default_factory=lambda: [None, None, None])
    given_j: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """What each device's counter said, made whole over its resets."""
    settled: list[Settled] = field(default_factory=list)
    dropped: set[object] = field(default_factory=set)
    grown: dict[tuple[object, object], float] = field(default_factory=lambda: defaultdict(float))
    names: dict[int, object] = field(default_factory=dict)
    begun: int = 0
    stepped_s: float = 0.0

    def __post_init__(self) -> None:
        self.ledger = Ledger(DEVICES, shared=self.shared, patience_s=3.0, gap_s=2.0)

    def happens(self, what: str, *arguments: Any) -> None:
        getattr(self, "_" + what.replace(" ", "_"))(*arguments)

    def _pass(self, seconds: float) -> None:
        self.now_s += seconds

    def _use(self, number: int, joules: float) -> None:
        self.counters_j[number] += joules

    def _sample(self, number: int) -> None:
        before_j, counter_j = self.seen_j[number], self.counters.energy_j(DEVICES[number], self.counters_j[number])
        self.now_s += 1e-3  # a clock stands still for no two samples
        self.ledger.add_energy(DEVICES[number].key, self.now_s, counter_j)
        if counter_j is None:
            return
        if before_j is not None:
            self.given_j[number] += counter_j - before_j
        self.seen_j[number] = counter_j

    def _sample_all(self, count: int, power_w: float) -> None:
        for _ in range(count):
            self.now_s += 0.1
            for number in range(len(DEVICES)):
                self.counters_j[number] += power_w / 10 + number
                self._sample(number)
            self._settle(0.0)

    def _serve(self, numbers: set[int], count: int, power_w: float, steps: bool) -> None:
        """Some requests decode together; those of them that had not begun do, and the first one ends."""
        self._pass(0.03)
        for number in numbers:
            self._begin(number, 0.0)
        begun_s = self.now_s
        for sample in range(count):
            for number in numbers:
                given = Progress(100 * number, 10, 1 + sample * (number + 1), prefilling=False)
                self._progress(number, given, begun_s - self.now_s, begun_s - self.now_s)
            if steps:
                self._step([(number, 0, 100) for number in (*numbers, 99)])
            self._sample_all(1, power_w)
        self._end(min(numbers), None, None, None, final=True)

    def _reset(self, number: int, counter_j: float) -> None:
        self.counters_j[number] = counter_j

    def _lose(self, number: int) -> None:
        self.ledger.add_energy(DEVICES[number].key, self.now_s, None)

    def _share(self, number: int, share: float | None) -> None:
        self.ledger.add_own_share(DEVICES[number].key, self.now_s, share)

    def _others(self, others: bool) -> None:
        self.ledger.others = others

    def _begin(self, number: int, ago_s: float) -> None:
        if number not in self.names:
            self.begun += 1
            self.names[number] = self.begun
            self.ledger.begin(self.begun, self.now_s + ago_s, "mn"[number % 2])

    def _progress(self, number: int, given: Progress, scheduled: float | None, first: float | None) -> None:
        self.ledger.progress(
            self.names.get(number),
            self.now_s,
            given,
            scheduled_s=None if scheduled is None else self.now_s + scheduled,
            first_token_s=None if first is None else self.now_s + first,
        )

    def _end(
        self, number: int, scheduled: float | None, first: float | None, given: Progress | None, final: bool
    ) -> None:
        self.ledger.end(
            self.names.get(number),
            self.now_s,
            scheduled_s=None if scheduled is None else self.now_s + scheduled,
            first_token_s=None if first is None else self.now_s + first,
            tokens=given,
            final=final,
        )
        if final:
            self.names.pop(number, None)

    def _drop(self, number: int) -> None:
        name = self.names.pop(number, None)
        if name is not None:
            self.ledger.drop(name)
            if all(each.key != name for each in self.settled):  # what was waited for in vain is over before
                self.dropped.add(name)

    def _step(self, members: list[tuple[int, int, int]]) -> None:
        start_s = max(self.stepped_s, self.now_s - 0.05)
        self.stepped_s = max(self.now_s, start_s + 1e-3)
        given = [
            StepMember(self.names.get(number, "warm-up"), prefill, context) for number, prefill, context in members
        ]
        self.ledger.step(start_s, self.stepped_s, given)

    def _settle(self, later_s: float) -> None:
        self.settled += self.ledger.settle(self.now_s + later_s)
        self.check()

    def check(self) -> None:
        attributed_j = 0.0
        for number, device in enumerate(self.ledger._accounts.values()):
            account = device.account()
            if account is None:
                continue
            assert {bucket for bucket, _ in account.energy_j} <= BUCKETS
            assert sum(account.energy_j.values()) == pytest.approx(account.device_energy_j, rel=1e-9, abs=1e-6)
            assert sum(account.time_s.values()) == pytest.approx(account.device_time_s, rel=1e-9, abs=1e-9)
            assert account.device_energy_j <= self.given_j[number] * (1 + 1e-9) + 1e-6
            for kind, sums in (("J", account.energy_j), ("s", account.time_s)):
                for entry, amount in sums.items():
                    assert amount >= self.grown[kind, (number, entry)] - 1e-9
                    self.grown[kind, (number, entry)] = amount
            attributed_j += sum(joules for (bucket, _), joules in account.energy_j.items() if bucket == "request")
        flying_j = sum(sum(timeline.attributed_j.values()) for timeline in self.ledger._timelines.values())
        settled_j = sum(each.posted_j for each in self.settled)
        if not self.dropped:
            assert settled_j + flying_j == pytest.approx(attributed_j, rel=1e-9, abs=1e-6)
        assert settled_j + flying_j <= attributed_j * (1 + 1e-9) + 1e-6
        for each in self.settled:
            if each.energy is not None:
                assert each.energy.gpu_j == each.posted_j > 0
                assert each.energy.idle_share is None or 0 <= each.energy.idle_share <= 1
                assert each.energy.uncertainty >= 0.05


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shared=st.booleans(), happening=st.lists(events, max_size=120))
@example(
    shared=False,
    happening=[
        ("serve", {0, 1}, 1, 5.0, False),
        ("end", 1, None, None, None, False),
        ("settle", 6.0),
        ("drop", 1),
    ],
)
def test_the_accounts_sum_to_the_counters_in_any_order_of_events(
    shared: bool, happening: list[tuple[Any, ...]]
) -> None:
    world = World(shared)
    for event in happening:
        world.happens(*event)
    world.check()
    # Everything that is over is settled in the end, also where no device answers.
    for number in list(world.names):
        world._end(number, None, None, None, final=True)
    world._settle(1000.0)
    assert not world.ledger._timelines
    assert len({each.key for each in world.settled}) == len(world.settled) == world.begun - len(world.dropped)


@settings(max_examples=60, deadline=None)
@given(
    powers=st.lists(st.floats(50, 700), min_size=20, max_size=60),
    spans=st.lists(st.tuples(st.integers(0, 50), st.integers(3, 30), st.integers(1, 400)), max_size=8),
)
def test_of_a_device_that_always_answers_all_energy_is_booked(
    powers: list[float], spans: list[tuple[int, int, int]]
) -> None:
    """From the first sample to the last change, to the joule, and none of it is others'."""
    ledger = Ledger(DEVICES[:1])
    key = DEVICES[0].key
    counter_j = 0.0
    ledger.add_energy(key, 0.0, counter_j)
    for sample, power_w in enumerate([*powers, 100.0, 100.0], start=1):
        now_s = sample / 10
        for number, (start, length, count) in enumerate(spans):
            if start == sample:
                ledger.begin(number, now_s, "m")
            if start + length == sample:
                ledger.end(
                    number,
                    now_s,
                    scheduled_s=now_s - length / 10,
                    first_token_s=now_s - length / 20,
                    tokens=Progress(100, 0, count, prefilling=False),
                )
        counter_j += power_w / 10
        ledger.add_energy(key, now_s, counter_j)
        ledger.settle(now_s)
    ledger.settle(1000.0)
    (account,) = ledger.accounts()
    assert account.device_time_s == pytest.approx((len(powers) + 1) / 10)
    assert account.device_energy_j == pytest.approx(counter_j - 5.0, rel=1e-9)
    assert abs(account.conservation_error) < 1e-9
    assert ("other", None) not in account.energy_j
