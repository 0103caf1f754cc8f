"""Which of the visible devices are the server's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ai_otel.gpu.selection import CONTAINER, ENGINE, ENVIRONMENT, PROCESS_LIST, OwnDevices, OwnElection, select
from ai_otel.gpu.sharing.leader import LeaderElection
from ai_otel.gpu.snapshot import DeviceSample, Snapshot, lost_reading
from ai_otel.gpu.source import Device, GpuReading

FOUR = [Device(f"GPU-{letter}000-1", "nvidia", model="H200", index=n) for n, letter in enumerate("abcd")]
MIXED = [Device("GPU-a000-1", "nvidia", model="A10", index=0), Device("GPU-b000-1", "nvidia", model="H200", index=1)]
PARENT = Device("GPU-e000-1", "nvidia", model="H200", index=4)
PARTS = [
    Device("GPU-e000-1", "nvidia", model="H200", index=4, instance_id=str(n), instance_uuid=f"MIG-{n}000-1")
    for n in (1, 2)
]
NONE = dict.fromkeys(range(4), False)
"""None of the four is held."""
TWO_AMD = [Device("amd-0", "amd"), Device("amd-1", "amd")]


def chosen(
    devices: list[Device], value: str | None = None, *, held: Mapping[int, bool | None] | None = None, order: str = ""
) -> tuple[list[int], str | None]:
    """Return the places of the own devices in the list, and how they are known."""
    variables = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    if order:
        variables["CUDA_DEVICE_ORDER"] = order
    selection = select(devices, {devices[n].key: flag for n, flag in (held or {}).items()}, variables)
    return [devices.index(device) for device in selection.devices], selection.known_by


def test_without_a_variable_all_devices_of_the_container_are_own() -> None:
    assert chosen(FOUR) == ([0, 1, 2, 3], CONTAINER)


@pytest.mark.fault(
    "gpu",
    "`CUDA_VISIBLE_DEVICES` names some of the GPUs, by index, UUID or MIG UUID, in any order, or none",
    "only those are the server's, for `ai_otel.gpu.ids` and for energy",
)
@pytest.mark.parametrize(
    ("value", "own"),
    [
        ("2", [2]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("1,1", [1]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("7", []),
        ("0,-1,2", [0]),
        ("0,9,2", [0]),
        ("GPU-c000-1", [2]),
        ("GPU-c,GPU-a", [2, 0]),
        ("GPU-", []),
        ("GPU-f", []),
        ("GPU-b,3", [1, 3]),
    ],
)
def test_the_variable_names_own_devices(value: str, own: list[int]) -> None:
    assert chosen(FOUR, value) == (own, ENVIRONMENT)


def test_an_instance_is_named_by_its_uuid() -> None:
    devices = [*FOUR, PARENT, *PARTS]
    assert chosen(devices, "MIG-2000-1") == ([6], ENVIRONMENT)
    assert chosen(devices, "MIG-GPU-e000-1/1/0") == ([5], ENVIRONMENT)
    assert chosen(devices, "GPU-e000-1") == ([], ENVIRONMENT), "which instance CUDA would use is not said"
    assert chosen(devices, "4") == ([], None)
    assert chosen(devices, "2") == ([2], ENVIRONMENT)


def test_numbers_are_the_drivers_although_one_device_cannot_be_opened() -> None:
    assert chosen([FOUR[0], FOUR[2], FOUR[3]], "2") == ([1], ENVIRONMENT)
    assert chosen([FOUR[0], FOUR[2], FOUR[3]], "1") == ([], ENVIRONMENT)


@pytest.mark.fault(
    "gpu",
    "`CUDA_VISIBLE_DEVICES` is a number, and the GPUs differ, so CUDA may order them otherwise than the driver",
    "the server's GPUs are unknown, and requests have no ids and no energy, unless `CUDA_DEVICE_ORDER=PCI_BUS_ID`",
)
def test_numbers_of_different_devices_are_certain_in_pci_order_only() -> None:
    assert chosen(MIXED, "0") == ([], None)
    assert chosen(MIXED, "0", order="FASTEST_FIRST") == ([], None)
    assert chosen(MIXED, "0", order="PCI_BUS_ID") == ([0], ENVIRONMENT)
    assert chosen(MIXED, "GPU-b") == ([1], ENVIRONMENT)


def test_the_process_list_is_trusted_before_the_variable() -> None:
    assert chosen(FOUR, "0,1", held={0: False, 1: False, 2: False, 3: True}) == ([3], PROCESS_LIST)
    assert chosen(FOUR, held={0: True, 1: True, 2: False, 3: None}) == ([0, 1], PROCESS_LIST)
    assert chosen([*FOUR, PARENT, *PARTS], held={**NONE, 5: False, 6: True}) == ([6], PROCESS_LIST)


@pytest.mark.fault(
    "gpu",
    "one of the GPUs cannot be read, so it is unknown whether the server holds it, too",
    "requests have no energy until it can be read, unless `CUDA_VISIBLE_DEVICES` excludes it: a part is not reported",
)
def test_a_device_that_cannot_be_read_may_be_held_too() -> None:
    held = {0: True, 1: False, 2: False}
    assert chosen(FOUR, held=held) == ([0, 3], PROCESS_LIST)
    assert chosen(FOUR, "0,3", held=held) == ([0, 3], PROCESS_LIST)
    assert chosen(FOUR, "0,1", held=held) == ([0], PROCESS_LIST)


@pytest.mark.parametrize("held", [{}, {0: False, 1: False}, {0: None, 1: None}])
def test_a_process_list_without_own_processes_says_nothing(held: Mapping[int, bool | None]) -> None:
    """The engine has not started its workers, or the driver reports process ids of the host."""
    assert chosen(FOUR, "2", held=held) == ([2], ENVIRONMENT)
    assert chosen(FOUR, held=held) == ([0, 1, 2, 3], CONTAINER)


@pytest.mark.parametrize(("vendor", "variable"), [("amd", "HIP_VISIBLE_DEVICES"), ("amd", "ROCR_VISIBLE_DEVICES")])
def test_a_variable_that_cannot_be_resolved_leaves_several_devices_unknown(vendor: str, variable: str) -> None:
    assert select(TWO_AMD, {}, {variable: "1"}).known_by is None
    assert select(TWO_AMD[:1], {}, {variable: "0"}).devices == TWO_AMD[:1]
    assert select(TWO_AMD, {}, {"CUDA_VISIBLE_DEVICES": "1"}).devices == TWO_AMD, "of another vendor"


def test_the_least_trusted_way_is_named() -> None:
    both = [*FOUR, *TWO_AMD]
    held = {device.key: device == FOUR[0] for device in FOUR}
    assert select(both, held, {}).known_by == CONTAINER
    assert select(both, held, {}).devices == [FOUR[0], *TWO_AMD]
    assert select([], {}, {}).known_by is None


# ---------------------------------------------------------------- the engine


@pytest.mark.fault(
    "gpu",
    "an engine computes on two of eight visible GPUs, and the driver does not list its processes",
    "the first two are the server's, as far as CUDA's order is certain",
)
def test_an_engine_takes_the_first_of_the_visible_devices() -> None:
    assert select(FOUR, {}, {}, 2) == (FOUR[:2], ENGINE)
    assert select(FOUR, {}, {"CUDA_VISIBLE_DEVICES": "3,1,0"}, 2) == ([FOUR[3], FOUR[1]], ENGINE)
    assert select(MIXED, {}, {}, 1) == ((), None)
    assert select(MIXED, {}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 1) == (MIXED[:1], ENGINE)
    assert select([*FOUR, PARENT, *PARTS], {}, {}, 1) == ((), None)
    assert select(FOUR, {FOUR[3].key: True}, {}, 1).known_by == PROCESS_LIST


@pytest.mark.parametrize("count", [None, 4, 8])
def test_an_engine_on_all_visible_devices_decides_nothing(count: int | None) -> None:
    assert select(FOUR, {}, {}, count).known_by == CONTAINER
    assert select(FOUR, {}, {"CUDA_VISIBLE_DEVICES": "1,2,3"}, count).known_by == ENVIRONMENT
    assert select(TWO_AMD, {}, {}, 1) == (TWO_AMD, CONTAINER)


# ---------------------------------------------------------------- several servers of a host


def candidates(directory: Path, *values: str) -> list[tuple[LeaderElection, bool]]:
    """Return the election of each server and whether it samples. All see four GPUs, a variable names their own."""
    found = []
    for value in values:
        selection = select(FOUR, {}, {"CUDA_VISIBLE_DEVICES": value})
        election = LeaderElection(directory, serves=True)
        own = OwnElection(election, lambda selection=selection: selection)  # type: ignore[misc]
        found.append((election, own.vacant() and own.lead([device.id for device in FOUR], 1.0)))
    return found


@pytest.mark.fault(
    "gpu",
    "two servers run on different GPUs of one host",
    "each samples, and the requests of each have the energy of its own GPUs",
)
def test_servers_on_different_devices_sample_both(tmp_path: Path) -> None:
    first, second = candidates(tmp_path, "0,1", "2,3")
    assert (first[1], second[1]) == (True, True)
    assert not first[0].others_serving()
    assert not second[0].others_serving()


def test_of_servers_on_the_same_devices_one_samples(tmp_path: Path) -> None:
    first, second = candidates(tmp_path, "0,1", "0,1")
    assert (first[1], second[1]) == (True, False)
    assert first[0].others_serving()


def test_a_server_without_own_devices_stands_with_all(tmp_path: Path) -> None:
    first, second = candidates(tmp_path, "", "0")
    assert (first[1], second[1]) == (True, False)


# ---------------------------------------------------------------- one choice for ids and energy


def sample(device: Device, reading: GpuReading | None = None) -> DeviceSample:
    return DeviceSample(device, reading if reading is not None else GpuReading(), 0.0)


@pytest.mark.fault(
    "gpu",
    "one of two GPUs stops answering, and a variable is set that does not say which of them is the server's",
    "the request has no `ai_otel.gpu.ids`; it is not ascribed to the GPU that is left",
)
def test_a_device_that_does_not_answer_is_not_left_out_of_the_choice() -> None:
    first, second = Device("GPU-a", "amd"), Device("GPU-b", "amd")
    own = OwnDevices({"HIP_VISIBLE_DEVICES": "1"})
    assert own.choose_from(Snapshot((sample(first), sample(second, lost_reading())))) == ((), None)


@pytest.mark.fault(
    "gpu",
    "an engine that slept or restarts holds no GPU for a while",
    "its requests keep the GPUs that it held before, also without `AI_OTEL_ENERGY`",
)
def test_devices_that_were_held_stay_the_servers_own() -> None:
    own = OwnDevices()
    holding = Snapshot(tuple(sample(device, GpuReading(held=device is FOUR[1])) for device in FOUR))
    asleep = Snapshot(tuple(sample(device, GpuReading(held=False)) for device in FOUR))
    assert own.choose_from(holding) == ([FOUR[1]], PROCESS_LIST)
    assert own.choose_from(asleep) == ([FOUR[1]], PROCESS_LIST)


def test_the_devices_are_chosen_once_for_a_sample_and_a_number_of_devices() -> None:
    counts = [1, 1, 2]
    asked: list[int] = []

    def count() -> int:
        asked.append(counts[min(len(asked), 2)])
        return asked[-1]

    own, snapshot = OwnDevices({}, count), Snapshot(tuple(sample(device) for device in FOUR))
    first = own.choose_from(snapshot)
    assert first.devices == FOUR[:1]
    assert own.choose_from(snapshot).devices == FOUR[:2]
    assert own.choose_from(snapshot) is own.selection
