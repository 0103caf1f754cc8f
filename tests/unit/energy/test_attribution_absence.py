"""A request without energy carries the reason."""

from __future__ import annotations

from typing import Any

import pytest

from ai_otel import semconv
from ai_otel.energy import absence
from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.gpu.source import Device
from ai_otel.record import Inference, Progress, RequestRecord

GPUS = [Device("GPU-0", "nvidia"), Device("GPU-1", "nvidia")]
END_S = 8.0


def test_every_reason_is_in_the_contract() -> None:
    reasons = {value for name, value in vars(absence).items() if name.isupper()}
    assert reasons == set(semconv.ENERGY_ABSENCES)


def settled(since_s: float = 3.0, until_s: float = 5.0, **happens: Any) -> Settled:
    """Return the result of one request on two GPUs, to which something happens at 4 s."""
    ledger = Ledger(GPUS)
    found: list[Settled] = []
    for tick in range(200):
        now_s = tick / 10
        for device in GPUS:
            lost = happens.get("lost") == device and 4 <= now_s < 4.5
            ledger.add_energy(device.key, now_s, None if lost else 300.0 * now_s)
        if now_s == since_s:
            ledger.begin("a", now_s, "m")
        if now_s == 4.0:
            ledger.others, ledger.overflown = happens.get("others", False), happens.get("overflown", False)
            if "share" in happens:
                ledger.add_own_share(GPUS[1].key, now_s, happens["share"])
        if now_s == until_s:
            ledger.end("a", now_s)
        found += ledger.settle(now_s)
    (result,) = found
    return result


@pytest.mark.fault(
    "gpu",
    "a request's energy cannot be known",
    "its span has no figure, and the reason in `ai_otel.energy.absence`",
)
@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        ({}, None),
        ({"lost": GPUS[0]}, absence.GAP),
        ({"others": True}, absence.OTHER_SERVER),
        ({"overflown": True}, absence.OVERLOAD),
        ({"share": 0.5}, absence.SHARED),
        ({"share": None}, absence.UNKNOWN_SHARING),
        ({"until_s": 3.1}, absence.SHORT),
    ],
)
def test_the_reason_is_named(happens: dict[str, Any], reason: str | None) -> None:
    result = settled(**happens)
    assert result.absence == reason
    assert (result.energy is None) == (reason is not None)


@pytest.mark.fault(
    "gpu",
    "an engine reports the tokens of a request of 15 s only at its end, while others run",
    "that request has no figure (`ai_otel.energy.absence` is `unobserved`), and the others keep theirs",
)
def test_a_long_request_that_is_reported_at_its_end_is_unobserved() -> None:
    ledger = Ledger(GPUS[:1])
    found: dict[object, Settled] = {}
    for tick in range(600):
        now_s = tick / 10
        ledger.add_energy(GPUS[0].key, now_s, 300.0 * now_s)
        if tick == 30:
            ledger.begin("late", now_s, "m")
        if 30 <= tick < 330 and tick % 30 == 0:
            ledger.begin(tick, now_s, "m")
        if 60 <= tick < 360 and tick % 30 == 0:
            tokens = Progress(100, 0, 100, prefilling=False)
            ledger.end(tick - 30, now_s, scheduled_s=now_s - 3, first_token_s=now_s - 2.9, tokens=tokens)
        if tick == 180:
            tokens = Progress(100, 0, 500, prefilling=False)
            ledger.end("late", now_s, scheduled_s=3.0, first_token_s=3.1, tokens=tokens)
        found |= {each.key: each for each in ledger.settle(now_s)}
    assert (found["late"].energy, found["late"].absence) == (None, absence.UNOBSERVED)
    assert all(each.energy is not None for key, each in found.items() if key != "late")


def test_a_record_that_is_not_kept_has_the_reason() -> None:
    attribution = EnergyAttribution(Ledger(GPUS), lambda _record: None, limit=1, clock=lambda: 0.0)
    records = [RequestRecord(inferences=[Inference("test", "chat")]) for _ in range(2)]
    assert [attribution.defer(record) for record in records] == [True, False]
    assert [record.energy_absence for record in records] == [None, absence.OVERLOAD]
    attribution.release_all(0.0)
