"""Devices of which it is unknown whose processes compute on them: shared, and not attributed."""

from __future__ import annotations

import pytest

from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.feed import EnergyFeed
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.gpu.source import Device, GpuReading, Support

GPU = Device("GPU-0", "nvidia")
POWER_W = 300.0


def served(*readings: GpuReading, shared: bool = False) -> tuple[Settled, int]:
    """Return the result of a request from 3 s to 5 s and the number of accounts; a reading is taken each second."""
    ledgers: list[Ledger] = []
    feed = EnergyFeed(
        lambda ledger, _selection: ledgers.append(ledger) or EnergyAttribution(ledger, lambda _record: None),
        shared=shared,
    )
    feed.opened([GPU])
    settled: list[Settled] = []
    for tick in range(80):
        now_s = tick / 10
        feed.saw_energy(GPU, now_s, 1000.0 + POWER_W * now_s)
        (ledger,) = ledgers
        if tick % 10 == 0:
            feed.saw_reading(GPU, now_s, readings[min(tick // 10, len(readings) - 1)])
        if tick == 30:
            ledger.begin("a", now_s, "m")
        if tick == 50:
            ledger.end("a", now_s)
        settled += ledger.settle(now_s)
    (result,) = settled
    return result, len(ledgers[0].accounts())


def unknown(why: Support = Support.INVALID) -> GpuReading:
    return GpuReading(absent={"own_share": why})


@pytest.mark.fault(
    "gpu",
    "the driver reports process ids of the host, so it is unknown whose processes compute on a GPU",
    "energy is not attributed (`ai_otel.energy.absence` is `unknown_sharing`), unless `AI_OTEL_ENERGY_SHARED` is set",
)
@pytest.mark.parametrize("why", [Support.INVALID, Support.NO_PERMISSION, Support.ERROR])
def test_unknown_sharing_is_not_exclusive(why: Support) -> None:
    result, accounts = served(unknown(why))
    assert (result.energy, result.absence, accounts) == (None, "unknown_sharing", 0)
    result, accounts = served(unknown(why), shared=True)
    assert result.energy is not None
    assert result.energy.gpu_j == pytest.approx(2 * POWER_W, rel=0.1)
    assert accounts == 1


def test_it_stays_unknown_for_a_minute() -> None:
    """An idle second says nothing of a neighbour's next one."""
    result, accounts = served(unknown(), GpuReading(own_share=1.0))
    assert (result.energy, result.absence, accounts) == (None, "unknown_sharing", 0)


def test_a_known_neighbour_is_shared() -> None:
    assert served(GpuReading(own_share=0.5))[0].absence == "shared"


@pytest.mark.parametrize("reading", [GpuReading(own_share=1.0), GpuReading(), unknown(Support.NOT_SUPPORTED)])
def test_an_exclusive_device_and_a_source_without_processes_are_attributed(reading: GpuReading) -> None:
    result, accounts = served(reading)
    assert result.energy is not None
    assert result.absence is None
    assert accounts == 1
