"""Energy of the server's own devices only, also when it turns out late which they are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.feed import EnergyFeed
from ai_otel.energy.ledger import Ledger
from ai_otel.gpu.selection import ENVIRONMENT, PROCESS_LIST, OwnDevices, Selection
from ai_otel.gpu.source import Device, GpuReading

FOUR = [Device(f"GPU-{n}", "nvidia", model="H200", index=n) for n in range(4)]


class Server:
    """The feed of a host of four GPUs, each of which draws 300 W."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.now_s = 0.0
        self.ledgers: list[Ledger] = []
        self.feed = EnergyFeed(self._attribute, own=OwnDevices(variables))
        self.feed.opened(FOUR)

    def _attribute(self, ledger: Ledger, selection: Selection) -> EnergyAttribution:
        self.ledgers.append(ledger)
        return EnergyAttribution(ledger, lambda _record: None, gpu_ids=selection.ids, clock=lambda: self.now_s)

    def run(self, seconds: float, held: int | None = None) -> None:
        for tick in range(round(seconds * 10)):
            self.now_s += 0.1
            for device in FOUR:
                self.feed.saw_energy(device, self.now_s, 1000.0 + 300.0 * self.now_s)
                if tick % 10 == 0:
                    reading = GpuReading(held=None if held is None else device.index == held)
                    self.feed.saw_reading(device, self.now_s, reading)
            self.feed.collected(self.now_s)


@pytest.mark.fault(
    "gpu",
    "a server runs on one of a host's four GPUs (`CUDA_VISIBLE_DEVICES=2`)",
    "its requests pay for that GPU only",
)
def test_only_own_devices_have_accounts() -> None:
    server = Server({"CUDA_VISIBLE_DEVICES": "2"})
    server.run(3.0)
    assert server.feed.selection == ([FOUR[2]], ENVIRONMENT)
    assert [account.key for account in server.feed.accounts] == [FOUR[2].key]


def test_without_an_own_device_nothing_is_attributed() -> None:
    server = Server({"CUDA_VISIBLE_DEVICES": ""})
    server.run(3.0)
    assert (server.feed.attribution, server.feed.accounts) == (None, ())


@pytest.mark.fault(
    "gpu",
    "an engine takes one of four GPUs without a variable, after ai-otel has started",
    "the accounts start again with that GPU, as soon as the driver lists the engine's process",
)
def test_the_accounts_start_again_when_the_engine_holds_a_device() -> None:
    server = Server({})
    server.run(3.0)
    assert len(server.feed.accounts) == 4
    server.run(3.0, held=1)
    assert server.feed.selection == ([FOUR[1]], PROCESS_LIST)
    assert [account.key for account in server.feed.accounts] == [FOUR[1].key]
    assert len(server.ledgers) == 2


def test_an_engine_that_sleeps_keeps_its_devices() -> None:
    server = Server({})
    server.run(3.0, held=1)
    server.run(3.0, held=9)
    assert server.feed.selection == ([FOUR[1]], PROCESS_LIST)


def test_a_better_proof_of_the_same_devices_keeps_the_accounts() -> None:
    server = Server({"CUDA_VISIBLE_DEVICES": "1"})
    server.run(3.0)
    server.run(3.0, held=1)
    assert server.feed.selection.known_by == PROCESS_LIST
    assert len(server.ledgers) == 1
    assert server.feed.attribution is not None
    assert server.feed.attribution.gpu_selection == PROCESS_LIST
