"""Between recorder and ledger: what runs is followed, what is over is held until its energy is known, and handed on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from ai_otel import record as record_module, semconv
from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.device_events import THROTTLE, XID, DeviceEvents
from ai_otel.energy.ledger import Ledger
from ai_otel.energy.timeline import BIN_TOKENS, EXCLUSIVE
from ai_otel.energy.timing import Timing, sum_of, timing_of, tokens_of
from ai_otel.gpu.source import Device, GpuEvent, GpuReading
from ai_otel.hooks import guard
from ai_otel.record import Choice, Energy, Inference, Outcome, Progress, RequestRecord
from ai_otel.recorder import CURRENT, Recorder

GPU = Device("GPU-0", "nvidia")
IDLE_W, BUSY_W = 100.0, 400.0
WALL_NS = 1_700_000_000_000_000_000


@dataclass
class Clock:
    """The two clocks that records are stamped with, in our hand."""

    now_s: float = 100.0
    wall_ns: int = WALL_NS

    def perf_counter_ns(self) -> int:
        return round(self.now_s * 1e9)

    def time_ns(self) -> int:
        return self.wall_ns + round(self.now_s * 1e9)


@dataclass
class Server:
    """A recorder, a device and the attribution between them; the recorder hands over to the caller of `deliver`."""

    clock: Clock
    limit: int = 100
    started_limit: int = 100
    others: bool = False
    counter_j: float = 1000.0
    delivered: list[RequestRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting: list[RequestRecord] = []
        self.recorder = Recorder(self.waiting.append)
        self.ledger = Ledger([GPU], patience_s=10.0)
        self.attribution = EnergyAttribution(
            self.ledger,
            self.delivered.append,
            gpu_ids=[GPU.id, GPU.id],
            others_serving=lambda: self.others,
            limit=self.limit,
            started_limit=self.started_limit,
            clock=lambda: self.clock.now_s,
        )
        self.recorder.follow(self.attribution.started)
        self.sample()

    def sample(self) -> None:
        self.ledger.add_energy(GPU.key, self.clock.now_s, self.counter_j)
        self.attribution.collect(self.clock.now_s)

    def draw(self, power_w: float, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.now_s = round(self.clock.now_s + 0.1, 6)
            self.counter_j += power_w / 10
            self.sample()

    def begin(self, model: str | None = "m") -> Inference:
        return self.recorder.begin(Inference("test", "chat", model=model))

    def defer(self) -> list[bool]:
        """Hand over what the recorder has, as its thread would."""
        assert self.recorder.flush()
        records, self.waiting[:] = list(self.waiting), []
        return [self.attribution.defer(record) for record in records]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(record_module, "time", clock)
    return clock


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    server = Server(clock)
    yield server
    server.recorder.stop()


def choice(first_token_s: float, decode_s: float, tokens: int = 50, queue_s: float = 0.0) -> Choice:
    return Choice(
        counted_input_tokens=100,
        output_tokens=tokens,
        cached_tokens=0,
        first_token_s=first_token_s,
        queue_s=queue_s,
        prefill_s=first_token_s - queue_s,
        decode_s=decode_s,
    )


# ---------------------------------------------------------------- one record


def test_a_record_comes_back_with_its_energy(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    inference = server.begin()
    server.draw(BUSY_W, 2.0)
    inference.choices = [choice(0.1, 1.9)]
    server.recorder.end(inference, Outcome.FINISHED)
    assert server.defer() == [True]
    assert server.delivered == []
    server.draw(IDLE_W, 0.5)
    (record,) = server.delivered
    assert record.energy is not None
    assert record.energy.gpu_j == pytest.approx(2.0 * BUSY_W, rel=0.05)
    assert record.energy.method == EXCLUSIVE
    assert record.gpu_ids == (GPU.id,)
    assert server.attribution.deferred == 0
    assert server.ledger.accounts()[0].energy_j["request", "m"] == pytest.approx(record.energy.gpu_j, rel=0.01)


def test_without_attribution_beginnings_are_not_followed(clock: Clock) -> None:
    recorder = Recorder(lambda _record: None)
    assert recorder._started is None
    recorder.begin(Inference("test"))
    assert recorder._started is None
    recorder.stop()


def test_in_the_child_of_a_fork_beginnings_are_not_followed(server: Server) -> None:
    """The parent's join is the parent's."""
    server.recorder._after_fork()
    assert server.recorder._started is None


def test_time_in_the_queue_is_not_time_on_the_devices(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    first = server.begin()
    second = server.begin()
    server.draw(BUSY_W, 2.0)
    first.choices = [choice(0.1, 1.9)]
    server.recorder.end(first, Outcome.FINISHED)
    server.draw(BUSY_W, 2.0)
    second.choices = [choice(2.1, 1.9, queue_s=2.0)]
    server.recorder.end(second, Outcome.FINISHED)
    assert server.defer() == [True, True]
    server.draw(IDLE_W, 0.5)
    energies = [record.energy for record in server.delivered]
    assert [energy.gpu_j for energy in energies if energy] == pytest.approx([2 * BUSY_W, 2 * BUSY_W], rel=0.05)
    assert {energy.method for energy in energies if energy} == {EXCLUSIVE}


def test_a_slow_client_does_not_make_a_request_longer(server: Server) -> None:
    """The stream ends when the client has read it; the devices were done before."""
    server.draw(IDLE_W, 2.0)
    slow = server.begin()
    server.draw(BUSY_W, 1.0)
    server.draw(IDLE_W, 0.1)
    slow.choices = [choice(0.1, 0.9)]
    server.recorder.end(slow, Outcome.FINISHED)
    server.defer()
    server.draw(IDLE_W, 0.5)
    energy = server.delivered[0].energy
    assert energy is not None
    assert energy.gpu_time_s == pytest.approx(1.0, abs=0.11)


def test_the_engines_wall_clock_may_step(server: Server) -> None:
    """Its arrival stamp is laid on the record's own time line."""
    inference = server.begin()
    inference.arrival_ns = inference.start_ns + 5_000_000
    server.clock.wall_ns += 3_600_000_000_000
    inference.choices = [choice(0.5, 1.0, queue_s=0.2)]
    started_s = server.clock.now_s
    expected = Timing(started_s + 0.205, started_s + 0.505, started_s + 1.505)
    assert timing_of(inference, started_s + 9.0) == pytest.approx(expected)


def test_progress_has_the_model_and_the_tokens_while_it_runs(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    inferences = [server.begin(model=None) for _ in range(2)]
    begun_ns, begun_s = server.clock.time_ns(), server.clock.now_s

    def follow(inference: Inference, rate: int) -> None:
        def progress() -> Progress:
            inference.model = "m"
            tokens = 1 + round((server.clock.now_s - begun_s) * rate)
            return Progress(100, 0, tokens, prefilling=False, first_token_ns=begun_ns, prefill_s=0.0)

        inference.progress = progress

    follow(inferences[0], 100)
    follow(inferences[1], 100)
    server.draw(BUSY_W, 2.0)
    account = server.ledger.accounts()[0]
    # They run still, and are booked, to their model: nothing waits for their end.
    assert account.energy_j["request", "m"] == pytest.approx(1.9 * BUSY_W, rel=0.05)
    assert ("request", None) not in account.energy_j


def test_progress_that_raises_costs_nothing_but_itself(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    inference = server.begin()

    def broken() -> Progress:
        raise RuntimeError

    inference.progress = broken
    server.draw(BUSY_W, 2.0)
    server.recorder.end(inference, Outcome.FINISHED)
    server.defer()
    server.draw(IDLE_W, 0.5)
    assert server.delivered[0].energy is not None
    assert guard.errors["progress"] > 0


def test_the_values_of_the_record_are_waited_for(server: Server) -> None:
    """The record comes shortly after the end: until then nothing is known of the tokens of either."""
    server.draw(IDLE_W, 2.0)
    inferences = [server.begin(), server.begin()]
    server.draw(BUSY_W, 2.0)
    for inference, tokens in zip(inferences, (150, 50), strict=True):
        server.recorder.end(inference, Outcome.FINISHED)
        inference.choices = [choice(0.1, 1.9, tokens=tokens)]
    server.draw(IDLE_W, 0.3)
    server.defer()
    server.draw(IDLE_W, 0.5)
    energies = [record.energy for record in server.delivered]
    assert {energy.method for energy in energies if energy} == {BIN_TOKENS}
    more, less = (energy.gpu_j for energy in energies if energy)
    assert more > 2 * less


# ---------------------------------------------------------------- several inferences of one record


def test_several_inferences_of_one_record_add_up(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    record = server.recorder.open("chat")
    token = CURRENT.set(record)
    inferences = [server.begin() for _ in range(3)]
    CURRENT.reset(token)
    server.draw(BUSY_W, 2.0)
    for inference in inferences:
        inference.choices = [choice(0.1, 1.9)]
        server.recorder.end(inference, Outcome.FINISHED)
    server.draw(IDLE_W, 3.0)
    server.recorder.close(record)
    server.defer()
    server.draw(IDLE_W, 0.5)
    (delivered,) = server.delivered
    assert delivered.energy is not None
    assert delivered.energy.gpu_j == pytest.approx(2.0 * BUSY_W, rel=0.05)
    assert delivered.energy.batch_mean == pytest.approx(3)
    assert delivered.energy.power_mean_w == pytest.approx(BUSY_W, rel=0.05)


def test_a_sum_with_an_unknown_part_is_absent(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    record = server.recorder.open("chat")
    token = CURRENT.set(record)
    long, short = server.begin(), server.begin()
    CURRENT.reset(token)
    for inference, seconds in ((short, 0.1), (long, 2.0)):
        server.draw(BUSY_W, seconds)
        inference.choices = [choice(0.05, 0.05 if inference is short else 2.0)]
        server.recorder.end(inference, Outcome.FINISHED)
    server.recorder.close(record)
    server.defer()
    server.draw(IDLE_W, 0.5)
    assert server.delivered[0].energy is None
    assert server.delivered[0].gpu_ids == (GPU.id,)


def test_a_request_that_was_rejected_has_no_part_in_it(server: Server) -> None:
    server.draw(IDLE_W, 2.0)
    record = server.recorder.open("chat")
    token = CURRENT.set(record)
    runs, rejected = server.begin(), server.begin()
    CURRENT.reset(token)
    server.recorder.end(rejected, Outcome.REJECTED, "queue_full")
    server.draw(BUSY_W, 2.0)
    runs.choices = [choice(0.1, 1.9)]
    server.recorder.end(runs, Outcome.FINISHED)
    server.recorder.close(record)
    server.defer()
    server.draw(IDLE_W, 0.5)
    energy = server.delivered[0].energy
    assert energy is not None
    assert energy.gpu_j > 1.0 * BUSY_W


def test_energies_of_parts_are_added_and_means_are_weighted() -> None:
    parts = [Energy(10.0, 0.5, "affine", 0.1, 1.0, 400.0, 4.0), Energy(30.0, 0.1, "bin_tokens", 0.3, 3.0, 600.0, 8.0)]
    assert sum_of(parts) == Energy(40.0, 0.2, "bin_tokens", 0.25, 4.0, 550.0, 7.0)
    unknown = Energy(10.0, None, "affine", 0.1, 1.0, None, None)
    assert sum_of([unknown, parts[0]]) == Energy(20.0, None, "affine", 0.1, 2.0, None, None)
    assert sum_of([parts[0]]) == parts[0]


def test_tokens_are_those_that_were_computed() -> None:
    assert tokens_of([choice(0.1, 1.0, tokens=5), choice(0.1, 1.0, tokens=7)]) == Progress(200, 0, 12, prefilling=False)
    assert tokens_of([Choice(output_tokens=None)]) is None
    assert tokens_of([]) is None
    aborted = Choice(counted_input_tokens=0, output_tokens=0)
    assert tokens_of([aborted]) == Progress(None, None, 0, prefilling=False)


# ---------------------------------------------------------------- holding


def test_a_record_without_an_inference_is_not_held(server: Server) -> None:
    assert not server.attribution.defer(RequestRecord())


def test_more_than_the_limit_is_not_held_and_counted(clock: Clock) -> None:
    server = Server(clock, limit=2)
    inferences = [server.begin() for _ in range(5)]
    for inference in inferences:
        server.recorder.end(inference, Outcome.FINISHED)
    assert server.defer() == [True, True, False, False, False]
    assert (server.attribution.deferred, server.attribution.undeferred) == (2, 3)
    server.recorder.stop()


def test_a_record_is_not_held_for_longer_than_patience(server: Server) -> None:
    """The device falls silent: what is held comes back without energy."""
    server.draw(IDLE_W, 1.0)
    inference = server.begin()
    server.draw(BUSY_W, 1.0)
    server.recorder.end(inference, Outcome.FINISHED)
    server.defer()
    for _ in range(300):
        server.clock.now_s += 0.1
        server.attribution.collect(server.clock.now_s)
    (record,) = server.delivered
    assert record.energy is None
    assert not server.ledger._timelines


def test_when_the_driver_hangs_no_record_waits_for_it(server: Server) -> None:
    """Sampling has stopped: what is deferred comes back with the next record, and that one is not held."""
    server.draw(IDLE_W, 1.0)
    for held in (True, True):
        inference = server.begin()
        server.recorder.end(inference, Outcome.FINISHED)
        assert server.defer() == [held]
    server.attribution.collect(server.clock.now_s)
    inference = server.begin()
    server.recorder.end(inference, Outcome.FINISHED)
    assert server.defer() == [True]
    server.clock.now_s += 11.0
    inference = server.begin()
    server.recorder.end(inference, Outcome.FINISHED)
    assert server.defer() == [False]
    assert [record.energy for record in server.delivered] == [None] * 3
    assert server.attribution.deferred == 0
    # And when it comes to itself again all goes on.
    server.draw(IDLE_W, 30.0)
    assert len(server.delivered) == 3
    assert server.attribution._followed == {}


def test_at_the_end_everything_comes_back_and_nothing_is_held_any_more(server: Server) -> None:
    server.draw(IDLE_W, 1.0)
    known, running = server.begin(), server.begin()
    server.draw(BUSY_W, 1.0)
    for inference in (known, running):
        inference.choices = [choice(0.1, 0.9 if inference is known else 9.0)]
    server.recorder.end(known, Outcome.FINISHED)
    server.defer()
    server.draw(BUSY_W, 1.0)
    server.recorder.end(running, Outcome.FINISHED)
    server.defer()
    server.attribution.release_all(server.clock.now_s)
    assert len(server.delivered) == 2
    assert server.delivered[0].energy is not None
    assert not server.attribution.defer(server.delivered[0])
    assert server.attribution.deferred == 0


def test_what_is_never_handed_over_is_forgotten(server: Server) -> None:
    """A record that the recorder dropped or discarded: nothing of it stays, and the ledger has it settled."""
    for number in range(50):
        inference = server.begin()
        server.draw(BUSY_W, 0.3)
        record = inference.record
        assert record is not None
        server.recorder.end(inference, Outcome.FINISHED)
        if number % 2:
            record.release()
    server.recorder.flush()
    server.draw(IDLE_W, 30.0)
    assert server.attribution._followed == {}
    assert not server.ledger._timelines


def test_what_runs_in_a_record_that_was_discarded_is_over(server: Server) -> None:
    record = server.recorder.open("chat")
    token = CURRENT.set(record)
    server.begin()
    CURRENT.reset(token)
    server.draw(BUSY_W, 1.0)
    server.recorder.discard(record)
    server.draw(IDLE_W, 2.0)
    assert not server.ledger._timelines


def test_a_record_that_is_closed_ends_what_runs_in_it(server: Server) -> None:
    """Its client hung up; the engine may never say that it gave up."""
    server.draw(IDLE_W, 1.0)
    record = server.recorder.open("chat")
    token = CURRENT.set(record)
    inference = server.begin()
    CURRENT.reset(token)
    server.draw(BUSY_W, 1.0)
    server.recorder.close(record)
    server.defer()
    server.draw(IDLE_W, 2.0)
    assert inference.outcome is None
    assert server.delivered[0].energy is not None
    assert not server.ledger._timelines


def test_when_too_much_begins_at_once_that_time_is_unattributed(clock: Clock) -> None:
    server = Server(clock, started_limit=3)
    server.draw(IDLE_W, 1.0)
    inferences = [server.begin() for _ in range(5)]
    server.draw(BUSY_W, 1.0)
    for inference in inferences:
        server.recorder.end(inference, Outcome.FINISHED)
    server.defer()
    server.draw(IDLE_W, 12.0)
    assert [record.energy for record in server.delivered] == [None] * 5
    assert server.ledger.accounts()[0].energy_j["other", None] > 0
    server.recorder.stop()


def test_beside_others_no_request_has_energy(server: Server) -> None:
    server.others = True
    server.draw(IDLE_W, 1.0)
    inference = server.begin()
    server.draw(BUSY_W, 1.0)
    server.recorder.end(inference, Outcome.FINISHED)
    server.defer()
    server.draw(IDLE_W, 1.0)
    assert server.delivered[0].energy is None


def test_every_record_comes_back_once_from_many_threads(server: Server) -> None:
    """Deferred by one thread, read by another, ended in between: each is delivered or refused, none twice."""
    records = []
    for _ in range(2000):
        inference = server.begin()
        record = inference.record
        assert record is not None
        server.recorder.end(inference, Outcome.FINISHED)
        records.append(record)
    assert server.recorder.flush()
    refused: list[RequestRecord] = []
    halfway = threading.Event()

    def hand_over() -> None:
        for number, record in enumerate(records):
            if not server.attribution.defer(record):
                refused.append(record)
            if number == 50:
                halfway.set()

    thread = threading.Thread(target=hand_over)
    thread.start()
    assert halfway.wait(10)
    for _ in range(5):
        server.draw(IDLE_W, 0.1)
    server.attribution.release_all(server.clock.now_s)
    thread.join(10)
    assert not thread.is_alive()
    came = [id(record) for record in (*server.delivered, *refused)]
    assert sorted(came) == sorted(id(record) for record in records)


# ---------------------------------------------------------------- what devices went through


def during(events: DeviceEvents, start_s: float, end_s: float) -> list[tuple[str, float, object]]:
    record = RequestRecord(
        start_ns=WALL_NS, end_ns=WALL_NS + round((end_s - start_s) * 1e9), _started=round(start_s * 1e9)
    )
    return [
        (event.name, round((event.time_ns - WALL_NS) / 1e9, 3), list(event.attributes.values())[-1])
        for event in events.during(record)
    ]


def throttled(events: DeviceEvents, *readings: tuple[float, float]) -> None:
    for time_s, counter_s in readings:
        events.add_reading(GPU, time_s, GpuReading(throttle_s={"power_cap": counter_s, "low_utilization": time_s}))


def test_an_xid_is_reported_with_the_requests_that_ran_then() -> None:
    events = DeviceEvents()
    events.add_xid(GpuEvent(GPU, 31, 15.0))
    assert during(events, 10.0, 20.0) == [(XID, 5.0, 31)]
    assert during(events, 16.0, 20.0) == []
    assert during(events, 10.0, 14.0) == []


def test_throttling_is_reported_from_when_it_was_seen_to_grow() -> None:
    events = DeviceEvents()
    throttled(events, (10.0, 3.0), (11.0, 3.0), (12.0, 3.5), (13.0, 4.0), (14.0, 4.0), (15.0, 4.5))
    assert during(events, 10.5, 12.5) == [(THROTTLE, 0.5, "power_cap")]
    assert during(events, 10.0, 20.0) == [(THROTTLE, 1.0, "power_cap"), (THROTTLE, 4.0, "power_cap")]
    assert during(events, 12.2, 12.8) == [(THROTTLE, 0.0, "power_cap")]  # it had begun before
    assert during(events, 13.2, 13.8) == []


def test_low_clocks_for_want_of_work_are_no_trouble() -> None:
    events = DeviceEvents()
    for time_s in (1.0, 2.0, 3.0):
        events.add_reading(GPU, time_s, GpuReading(throttle_s={"low_utilization": time_s}))
    assert during(events, 0.0, 5.0) == []


def test_events_stand_on_the_record(server: Server) -> None:
    server.draw(IDLE_W, 1.0)
    inference = server.begin()
    server.draw(BUSY_W, 1.0)
    server.attribution.device_events.add_xid(GpuEvent(GPU, 79, server.clock.now_s - 0.5))
    server.recorder.end(inference, Outcome.FINISHED)
    server.defer()
    server.draw(IDLE_W, 1.0)
    (event,) = server.delivered[0].device_events
    assert event.name == XID
    assert event.attributes == {semconv.HW_ID: GPU.id, semconv.AI_OTEL_GPU_XID_CODE: 79}
    assert event.time_ns - server.delivered[0].start_ns == pytest.approx(0.5e9)


def test_only_the_last_of_them_are_remembered() -> None:
    events = DeviceEvents()
    for number in range(2000):
        events.add_xid(GpuEvent(GPU, number, float(number)))
    assert len(during(events, 0.0, 3000.0)) == 512
