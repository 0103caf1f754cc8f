"""The ledger: who is given what, what is withheld, and that the accounts sum to what the counter said."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ai_otel.energy.accounts import Account
from ai_otel.energy.apportionment import StepMember
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.energy.timeline import AFFINE, BIN_TOKENS, ERROR, EXCLUSIVE, SENSOR_ERROR, TIME_SHARE
from ai_otel.gpu.source import Device
from ai_otel.record import Energy, Progress

GPU = Device("GPU-0", "nvidia")
GPUS = [GPU, Device("GPU-1", "nvidia")]
INSTANCE = Device("GPU-0", "nvidia", instance_id="1")
IDLE_W, BUSY_W = 100.0, 400.0
SAMPLE_S = 0.1


class Bench:
    """Samples the devices ten times a second; a device draws `power` (100 W, unless a test says otherwise)."""

    def __init__(self, ledger: Ledger, *devices: Device) -> None:
        self.ledger = ledger
        self.devices = devices or (GPU,)
        self.now_s = 0.0
        self.counters_j = dict.fromkeys((device.key for device in self.devices), 1000.0)
        self.power_w: Mapping[tuple[str, str | None], float] = dict.fromkeys(self.counters_j, IDLE_W)
        self.lost: set[tuple[str, str | None]] = set()
        self.settled: dict[object, Settled] = {}
        self.at_sample: Callable[[float], None] = lambda _now_s: None
        self.sample()

    def sample(self) -> None:
        self.at_sample(self.now_s)
        for key, counter_j in self.counters_j.items():
            self.ledger.add_energy(key, self.now_s, None if key in self.lost else counter_j)
        self.settled.update({each.key: each for each in self.ledger.settle(self.now_s)})

    def draw(self, power_w: float | Mapping[tuple[str, str | None], float], seconds: float) -> None:
        self.power_w = power_w if isinstance(power_w, Mapping) else dict.fromkeys(self.counters_j, power_w)
        for _ in range(round(seconds / SAMPLE_S)):
            self.now_s = round(self.now_s + SAMPLE_S, 6)
            for key in self.counters_j:
                self.counters_j[key] += self.power_w[key] * SAMPLE_S
            self.sample()

    def idle(self, seconds: float = 2.0) -> None:
        self.draw(IDLE_W, seconds)

    def energy(self, key: object) -> Energy:
        energy = self.settled[key].energy
        assert energy is not None
        return energy

    def account(self) -> Account:
        (account,) = self.ledger.accounts()
        return account

    def bucket(self, name: str) -> float:
        return sum(joules for (bucket, _), joules in self.account().energy_j.items() if bucket == name)


def bench(**settings: float) -> Bench:
    return Bench(Ledger([GPU], **settings))


def decoded(tokens: int, prompt: int = 100, cached: int | None = 0) -> Progress:
    return Progress(prompt, cached, tokens, prefilling=False)


def end(bench: Bench, key: object, *, tokens: int = 100, prompt: int = 100, prefill_s: float = 0.0) -> None:
    """End a request now; its first token came `prefill_s` after its begin."""
    timeline = bench.ledger._timelines[key]  # type: ignore[index]
    first_s = timeline.start_s + prefill_s
    bench.ledger.end(
        key, bench.now_s, scheduled_s=timeline.start_s, first_token_s=first_s, tokens=decoded(tokens, prompt)
    )  # type: ignore[arg-type]


# ---------------------------------------------------------------- one request


def test_alone_a_request_is_measured() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 3.0)
    end(on, "a")
    on.idle()
    energy = on.energy("a")
    assert energy.method == EXCLUSIVE
    assert energy.gpu_j == pytest.approx(3.0 * BUSY_W, rel=0.03)
    assert energy.idle_share == pytest.approx(IDLE_W / BUSY_W, rel=0.04)
    assert energy.gpu_time_s == pytest.approx(3.0)
    assert energy.power_mean_w == pytest.approx(BUSY_W, rel=0.03)
    assert energy.batch_mean == pytest.approx(1)
    assert energy.uncertainty == pytest.approx(SENSOR_ERROR)


def test_one_after_another_each_is_measured_by_its_time() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 1.0)
    change_s = on.now_s + 0.04
    on.draw(BUSY_W, SAMPLE_S)
    on.ledger.end("a", change_s, scheduled_s=None, first_token_s=None, tokens=None)
    on.ledger.begin("b", change_s, "m")
    on.draw(BUSY_W, 1.0)
    end(on, "b")
    on.idle()
    assert {on.energy(key).method for key in "ab"} == {EXCLUSIVE}
    assert on.energy("a").gpu_j == pytest.approx(1.04 * BUSY_W, rel=0.05)
    assert on.energy("b").gpu_j == pytest.approx(1.06 * BUSY_W, rel=0.05)


def test_a_short_request_has_its_energy_accounted_but_not_reported() -> None:
    """Below two quanta of the counter its energy is mostly its neighbours'."""
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, SAMPLE_S)
    end(on, "a")
    on.idle()
    assert on.settled["a"].energy is None
    assert on.settled["a"].posted_j == pytest.approx(on.bucket("request"))
    assert on.bucket("request") > 0


def test_where_the_power_varies_a_shorter_request_is_less_certain() -> None:
    def uncertainty(seconds: float) -> float:
        on = bench()
        on.idle()
        on.ledger.begin("a", on.now_s, "m")
        on.draw(BUSY_W, seconds)
        end(on, "a")
        on.idle()
        return on.energy("a").uncertainty

    assert uncertainty(0.4) == pytest.approx(0.1 * (BUSY_W - IDLE_W) / (0.4 * BUSY_W), rel=0.25)
    assert uncertainty(0.4) > uncertainty(1.0) > uncertainty(3.0) == SENSOR_ERROR


def test_what_was_settled_before_it_was_heard_of_is_missing() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s - 1.0, "m")
    on.draw(BUSY_W, 2.0)
    end(on, "a")
    on.idle()
    assert on.settled["a"].energy is None


def test_without_a_counter_a_request_is_settled_without_energy() -> None:
    on = Bench(Ledger([GPU], patience_s=1.0, gap_s=0.5))
    on.lost.add(GPU.key)
    on.ledger.begin("a", on.now_s, "m")
    on.idle(0.5)
    end(on, "a")
    on.idle(3.0)
    assert on.settled["a"].energy is None
    assert not on.ledger._timelines


def test_a_request_that_was_dropped_is_not_asked_for_any_more() -> None:
    on = bench()
    on.ledger.begin("a", on.now_s, "m")
    on.ledger.drop("a")
    on.idle()
    assert (on.ledger._timelines, on.settled) == ({}, {})


# ---------------------------------------------------------------- several


def run_together(on: Bench, seconds: float, rates: Mapping[str, int], prompts: Mapping[str, int]) -> None:
    """Requests of one engine that decode together, each so many tokens a sample."""
    on.idle()
    begun_s = on.now_s
    for key in rates:
        on.ledger.begin(key, begun_s, "m")

    def report(now_s: float) -> None:
        for key, rate in rates.items():
            tokens = 1 + round((now_s - begun_s) / SAMPLE_S) * rate
            on.ledger.progress(key, now_s, decoded(tokens, prompts[key]), scheduled_s=begun_s, first_token_s=begun_s)

    on.at_sample = report
    on.draw(BUSY_W, seconds)
    on.at_sample = lambda _now_s: None
    for key, rate in rates.items():
        end(on, key, tokens=1 + round(seconds / SAMPLE_S) * rate, prompt=prompts[key])
    on.idle()


def test_alike_are_given_alike_and_together_everything() -> None:
    on = bench()
    run_together(on, 5.0, {"a": 10, "b": 10}, {"a": 100, "b": 100})
    a, b = on.energy("a"), on.energy("b")
    assert a.gpu_j == pytest.approx(b.gpu_j)
    assert a.gpu_j + b.gpu_j == pytest.approx(5.0 * BUSY_W, rel=0.03)
    assert a.gpu_time_s + b.gpu_time_s == pytest.approx(5.0)
    assert a.batch_mean == pytest.approx(2)
    assert a.method in {AFFINE, BIN_TOKENS}
    assert SENSOR_ERROR < a.uncertainty <= ERROR[BIN_TOKENS]


def test_a_long_context_costs_more() -> None:
    on = bench()
    run_together(on, 2.0, {"short": 10, "long": 10}, {"short": 10, "long": 100_000})
    assert on.energy("long").gpu_j > 1.2 * on.energy("short").gpu_j


def test_a_fit_that_is_good_is_said_to_be_used() -> None:
    on = bench()
    run_together(on, 60.0, {"a": 10, "b": 10}, {"a": 100, "b": 100})
    assert on.energy("a").method == AFFINE
    assert on.ledger.cost.trusted


def test_a_cached_prompt_costs_nothing_to_compute() -> None:
    def prefill_share(cached: int) -> float:
        on = bench()
        on.idle()
        begun_s = on.now_s
        for key in ("prompt", "answer"):
            on.ledger.begin(key, begun_s, "m")
        on.ledger.progress("answer", begun_s, decoded(1), scheduled_s=begun_s, first_token_s=begun_s)
        on.draw(BUSY_W, 1.0)
        tokens = Progress(4000, cached, 1, prefilling=False)
        on.ledger.end("prompt", on.now_s, scheduled_s=begun_s, first_token_s=on.now_s, tokens=tokens)
        on.ledger.end("answer", on.now_s, scheduled_s=begun_s, first_token_s=begun_s, tokens=decoded(20))
        on.idle()
        return on.energy("prompt").gpu_j / (1.0 * BUSY_W)

    assert prefill_share(0) > 10 * prefill_share(3900)


def test_a_request_that_waits_beside_one_that_runs_is_given_nothing_for_it() -> None:
    on = bench()
    on.idle()
    for key in ("runs", "waits"):
        on.ledger.begin(key, on.now_s, "m")
    begun_s = on.now_s
    on.draw(BUSY_W, 1.0)
    scheduled_s = on.now_s
    on.ledger.end("runs", scheduled_s, scheduled_s=begun_s, first_token_s=begun_s + 0.1, tokens=decoded(50))
    on.draw(BUSY_W, 1.0)
    on.ledger.end("waits", on.now_s, scheduled_s=scheduled_s, first_token_s=scheduled_s + 0.1, tokens=decoded(50))
    on.idle()
    assert on.energy("runs").gpu_j == pytest.approx(BUSY_W, rel=0.05)
    assert on.energy("waits").gpu_j == pytest.approx(BUSY_W, rel=0.05)
    assert on.energy("waits").method == EXCLUSIVE


def test_requests_of_which_only_the_times_are_known_share_the_time() -> None:
    on = bench()
    on.idle()
    for key in ("a", "b"):
        on.ledger.begin(key, on.now_s, "m")
    on.draw(BUSY_W, 1.0)
    on.ledger.end("a", on.now_s)
    on.draw(BUSY_W, 1.0)
    on.ledger.end("b", on.now_s)
    on.idle()
    assert on.energy("a").method == on.energy("b").method == TIME_SHARE
    assert on.energy("a").gpu_j == pytest.approx(0.5 * BUSY_W, rel=0.05)
    assert on.energy("b").gpu_j == pytest.approx(1.5 * BUSY_W, rel=0.05)


# ---------------------------------------------------------------- steps


def test_steps_say_who_was_in_them() -> None:
    on = bench()
    on.idle()
    begun_s = on.now_s
    on.ledger.begin("a", begun_s, "m")
    on.ledger.begin("b", begun_s, "m")

    def step(now_s: float) -> None:
        # `b` is in every second step only, in spite of its times.
        for number in range(10):
            members = [StepMember("a", 0, 100), *([StepMember("b", 0, 100)] if number % 2 else [])]
            start_s = now_s - SAMPLE_S + number * SAMPLE_S / 10
            on.ledger.step(start_s, start_s + SAMPLE_S / 10, members)

    on.at_sample = step
    on.draw(BUSY_W, 60.0)
    on.at_sample = lambda _now_s: None
    end(on, "a")
    end(on, "b")
    on.idle()
    a, b = on.energy("a"), on.energy("b")
    assert a.method == AFFINE
    assert a.gpu_j / b.gpu_j == pytest.approx(3, rel=0.02)


def test_steps_without_an_observed_request_are_overhead() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.at_sample = lambda now_s: on.ledger.step(
        now_s - SAMPLE_S, now_s, [StepMember("a", 0, 100), StepMember("health check", 0, 100)]
    )
    on.draw(BUSY_W, 2.0)
    on.at_sample = lambda _now_s: None
    end(on, "a")
    on.idle()
    assert on.bucket("overhead") == pytest.approx(on.bucket("request"), rel=0.1)


# ---------------------------------------------------------------- waiting for what is not known yet


def test_a_bin_waits_for_the_first_token_of_all_that_run_in_it() -> None:
    on = bench(patience_s=2.0)
    on.idle()
    for key in ("a", "b"):
        on.ledger.begin(key, on.now_s, "m")
    begun_s = on.now_s
    on.draw(BUSY_W, 1.0)
    assert on.account().device_time_s <= begun_s
    tokens = decoded(50, prompt=1000)
    on.ledger.end("a", on.now_s, scheduled_s=begun_s, first_token_s=begun_s + 0.5, tokens=tokens)
    on.ledger.end("b", on.now_s, scheduled_s=begun_s, first_token_s=begun_s + 0.5, tokens=tokens)
    on.idle(0.3)
    assert on.account().device_time_s > begun_s + 0.9
    assert on.energy("a").gpu_j == pytest.approx(on.energy("b").gpu_j)


def test_it_does_not_wait_for_longer_than_its_patience() -> None:
    """Beside one that runs, an unreported one is taken to wait; if that was wrong, its energy is not reported."""
    on = bench(patience_s=1.0)
    on.idle()
    begun_s = on.now_s
    for key in ("runs", "silent"):
        on.ledger.begin(key, begun_s, "m")
    on.at_sample = lambda now_s: on.ledger.progress(
        "runs", now_s, decoded(round((now_s - begun_s) * 100) + 1), scheduled_s=begun_s, first_token_s=begun_s
    )
    on.draw(BUSY_W, 4.0)
    on.at_sample = lambda _now_s: None
    assert on.account().device_time_s == pytest.approx(on.now_s - 1.0, abs=0.25)
    end(on, "runs", tokens=401)
    end(on, "silent", tokens=50, prefill_s=1.0)
    on.idle()
    assert on.energy("runs").gpu_j > 0.7 * 4.0 * BUSY_W
    assert on.settled["silent"].energy is None


def test_alone_no_request_is_waited_for() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 3.0)
    assert on.account().device_time_s > on.now_s - 3 * SAMPLE_S


# ---------------------------------------------------------------- the buckets


def test_without_a_request_energy_is_idle_or_overhead() -> None:
    on = bench()
    on.idle(3.0)
    on.draw(BUSY_W, 2.0)
    on.idle(1.0)
    account = on.account()
    assert account.idle_power_w == pytest.approx(IDLE_W)
    assert on.bucket("overhead") == pytest.approx(2.0 * (BUSY_W - IDLE_W), rel=0.05)
    assert on.bucket("idle") == pytest.approx(account.device_time_s * IDLE_W, rel=0.05)
    assert account.time_s["overhead", None] == pytest.approx(2.0, abs=0.2)


def test_a_floor_that_is_too_high_takes_nothing_from_a_request() -> None:
    """The device came to rest deeper than ever in the very bin in which a request began."""
    on = bench()
    on.idle(5.0)
    on.draw(1.0, SAMPLE_S)
    on.ledger.begin("a", on.now_s + 0.09, "m")
    on.draw(1.0, 2 * SAMPLE_S)
    assert on.settled == {}
    assert min(on.account().energy_j.values()) >= 0
    assert on.account().conservation_error == pytest.approx(0, abs=1e-12)


def test_the_bucket_of_requests_stands_by_model() -> None:
    on = bench()
    for model in ("m", "n"):
        on.idle()
        on.ledger.begin(model, on.now_s)
        on.ledger.name(model, model)
        on.draw(BUSY_W, 1.0)
        end(on, model)
    on.idle()
    energies = on.account().energy_j
    assert energies["request", "m"] == pytest.approx(energies["request", "n"], rel=0.05)
    assert ("request", None) not in energies


def test_beside_other_servers_no_request_is_given_energy() -> None:
    on = bench()
    on.idle()
    on.ledger.others = True
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 2.0)
    end(on, "a")
    on.draw(BUSY_W, 1.0)
    on.idle()
    assert on.settled["a"].energy is None
    assert on.bucket("request") == 0
    assert on.bucket("overhead") < 20  # the end of the bin before, in which it had not begun
    assert on.bucket("other") == pytest.approx(2.0 * BUSY_W + 1.0 * (BUSY_W - IDLE_W), rel=0.05)
    assert on.account().conservation_error == pytest.approx(0, abs=1e-12)


def test_a_bucket_that_nothing_went_into_is_absent() -> None:
    on = bench()
    on.idle()
    assert set(on.account().energy_j) == {("idle", None)}


def test_before_the_first_bin_there_are_no_accounts() -> None:
    assert bench().ledger.accounts() == []


# ---------------------------------------------------------------- devices that are shared


@pytest.mark.parametrize("device", [GPU, INSTANCE], ids=["others were seen to compute", "a part of a device"])
def test_a_shared_device_gives_no_energy_and_no_accounts(device: Device) -> None:
    on = Bench(Ledger([device]), device)
    on.at_sample = lambda now_s: on.ledger.add_own_share(device.key, now_s, 0.5)
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 2.0)
    end(on, "a")
    on.idle()
    assert on.ledger.accounts() == []
    assert on.settled["a"].energy is None


def test_asked_to_it_apportions_its_part_and_the_rest_is_others() -> None:
    on = Bench(Ledger([INSTANCE], shared=True), INSTANCE)
    on.at_sample = lambda now_s: on.ledger.add_own_share(INSTANCE.key, now_s, 0.25)
    on.at_sample(0.0)
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 2.0)
    end(on, "a")
    on.idle()
    account = on.account()
    assert on.bucket("other") == pytest.approx(0.75 * account.device_energy_j, rel=1e-6)
    assert on.energy("a").gpu_j == pytest.approx(0.25 * 2.0 * BUSY_W, rel=0.05)
    assert on.energy("a").gpu_time_s == pytest.approx(0.25 * 2.0)
    assert account.conservation_error == pytest.approx(0, abs=1e-12)


def test_an_unknown_part_is_not_guessed() -> None:
    on = Bench(Ledger([INSTANCE], shared=True), INSTANCE)
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 2.0)
    end(on, "a")
    on.idle()
    assert on.ledger.accounts() == []
    assert on.settled["a"].energy is None


def test_a_device_that_is_exclusive_again_has_whole_accounts() -> None:
    on = bench()
    on.idle()
    on.ledger.add_own_share(GPU.key, on.now_s, 0.9)
    on.draw(BUSY_W, 1.0)
    assert on.ledger.accounts() == []
    on.ledger.add_own_share(GPU.key, on.now_s, 1.0)
    on.idle(61.0)
    assert on.account().conservation_error == pytest.approx(0, abs=1e-12)
    assert on.bucket("other") > 0.9 * BUSY_W


# ---------------------------------------------------------------- resets, losses, several devices


def test_after_a_reset_the_accounts_are_still_the_counters() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 1.0)
    on.ledger.add_energy(GPU.key, on.now_s, None)  # as the sampler does while a reset is not confirmed
    on.draw(BUSY_W, 1.0)
    end(on, "a")
    on.idle()
    account = on.account()
    assert on.settled["a"].energy is None
    assert account.conservation_error == pytest.approx(0, abs=1e-12)
    assert account.device_energy_j == pytest.approx(account.device_time_s * IDLE_W + 2.0 * (BUSY_W - IDLE_W), rel=0.07)
    assert min(account.energy_j.values()) >= 0


def test_energy_while_a_device_did_not_answer_is_unattributed() -> None:
    on = bench()
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 1.0)
    on.lost = {GPU.key}
    on.draw(BUSY_W, 2.0)
    on.lost = set()
    on.draw(BUSY_W, 1.0)
    end(on, "a")
    on.idle()
    account = on.account()
    assert on.settled["a"].energy is None
    assert on.bucket("other") == pytest.approx(2.0 * BUSY_W, rel=0.15)
    assert account.time_s["other", None] == pytest.approx(2.0, abs=0.3)
    assert account.conservation_error == pytest.approx(0, abs=1e-12)
    assert account.device_energy_j == pytest.approx(account.device_time_s * IDLE_W + 4.0 * (BUSY_W - IDLE_W), rel=0.03)


def test_the_devices_of_a_replica_are_added_up() -> None:
    on = Bench(Ledger(GPUS), *GPUS)
    on.idle()
    on.ledger.begin("a", on.now_s, "m")
    on.draw({GPUS[0].key: 400.0, GPUS[1].key: 300.0}, 2.0)
    end(on, "a")
    on.idle()
    energy = on.energy("a")
    assert energy.gpu_j == pytest.approx(2.0 * 700, rel=0.05)
    assert energy.gpu_time_s == pytest.approx(4.0)
    assert energy.power_mean_w == pytest.approx(700, rel=0.05)
    assert [account.conservation_error for account in on.ledger.accounts()] == pytest.approx([0, 0], abs=1e-12)
    booked = [account.energy_j["request", "m"] for account in on.ledger.accounts()]
    assert booked == pytest.approx([800, 600], rel=0.05)


def test_one_lost_device_of_two_leaves_both_accounts_right() -> None:
    on = Bench(Ledger(GPUS), *GPUS)
    on.idle()
    on.lost = {GPUS[0].key}
    on.ledger.begin("a", on.now_s, "m")
    on.draw(BUSY_W, 6.0)
    end(on, "a")
    on.lost = set()
    on.idle()
    on.ledger.begin("b", on.now_s, "m")
    on.draw(BUSY_W, 1.0)
    end(on, "b")
    on.idle()
    assert on.settled["a"].energy is None
    assert on.energy("b").gpu_j == pytest.approx(2 * BUSY_W, rel=0.06)
    first, second = on.ledger.accounts()
    assert first.energy_j["other", None] == pytest.approx(6.0 * BUSY_W, rel=0.1)
    assert ("other", None) not in second.energy_j
    assert [account.conservation_error for account in (first, second)] == pytest.approx([0, 0], abs=1e-12)
