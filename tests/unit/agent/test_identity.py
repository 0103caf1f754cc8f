"""Ids of device plugins and DRA drivers: every format, and ids that match no device."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from ai_otel import semconv
from ai_otel.agent import identity
from ai_otel.agent.identity import Inventory
from ai_otel.agent.slices import SliceDevice
from ai_otel.gpu.source import Device

GPU = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
OTHER = "GPU-11111111-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-1b2c3d4e-d72c-4106-c12f-20bd9faed9f6"

WHOLE = Device(GPU, "nvidia", name="nvidia0", pci_bus_id="00000000:18:00.0")
INSTANCE = Device(GPU, "nvidia", name="nvidia0", pci_bus_id="00000000:18:00.0", instance_id="7", instance_uuid=MIG)
SECOND = Device(OTHER, "nvidia", name="nvidia10", pci_bus_id="00000001:18:00.0")
AMD = Device("amd-uuid", "amd", name="Instinct MI300X", pci_bus_id="0000:1b:00.0")
INTEL = Device("intel-uuid", "intel", name="Max 1550", pci_bus_id="0000:3a:00.0")
DEVICES = (WHOLE, INSTANCE, SECOND, AMD, INTEL)


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """With a DRM device `card1` at Intel's address."""
    address = tmp_path / "devices/0000:3a:00.0"
    address.mkdir(parents=True)
    (tmp_path / "drm/card1").mkdir(parents=True)
    (tmp_path / "drm/card1/device").symlink_to(address)
    return Inventory(DEVICES, drm=tmp_path / "drm")


@pytest.mark.parametrize(
    ("id_", "device", "sharing"),
    [
        (GPU, WHOLE, "exclusive"),
        (f"{GPU}::3", WHOLE, "time_slicing"),
        (MIG, INSTANCE, "mig"),
        (f"{MIG}::7", INSTANCE, "time_slicing"),
        (f"MIG-{GPU}/7/0", INSTANCE, "mig"),
        ("nvidia0", WHOLE, "exclusive"),
        ("nvidia10", SECOND, "exclusive"),
        ("nvidia0/gi7", INSTANCE, "mig"),
        ("nvidia0/vgpu1", WHOLE, "time_slicing"),
        ("nvidia0/gi7/vgpu0", INSTANCE, "time_slicing"),
        ("0000:1b:00.0", AMD, "exclusive"),
        ("card1-0", INTEL, "exclusive"),
    ],
)
def test_each_id_format_maps_to_exactly_one_device(
    inventory: Inventory, id_: str, device: Device, sharing: str
) -> None:
    assert inventory.plugin(id_) == (device, sharing)


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "0",
        "1",
        f"{GPU[:12]}",
        f"{GPU}-0",
        f"{GPU}::",
        f"{GPU}::x",
        f"{GPU}::0::1",
        f"MIG-{GPU}/8/0",
        "MIG-00000000-d72c-4106-c12f-20bd9faed9f6",
        "nvidia1",
        "nvidia0/gi8",
        "nvidia0/vgpux",
        "nvidia",
        "0000:1c:00.0",
        "0001:1b:00.0",
        "card0-0",
        "card1",
        "Instinct MI300X-1",
        "amdgpu_xcp_3",
    ],
)
def test_ids_without_an_exact_match_are_not_mapped(inventory: Inventory, id_: str) -> None:
    """Indexes, prefixes and longer names are not matched."""
    assert inventory.plugin(id_) is None


def test_the_sharing_of_a_replica_is_configured() -> None:
    inventory = Inventory(DEVICES, replicas="mps")
    for id_ in (f"{GPU}::0", "nvidia0/vgpu0"):
        assert inventory.plugin(id_) == (WHOLE, "mps")


@pytest.mark.parametrize(
    ("siblings", "sharing"),
    [
        ((), "exclusive"),
        (("card1-0", "card2-0", "card10-0"), "exclusive"),
        (("card1-0", "card1-1"), "time_slicing"),
    ],
)
def test_an_intel_card_with_two_ids_is_shared(inventory: Inventory, siblings: Collection[str], sharing: str) -> None:
    assert inventory.plugin("card1-0", siblings) == (INTEL, sharing)


def test_the_address_of_a_partitioned_amd_gpu_is_not_mapped(inventory: Inventory) -> None:
    assert inventory.plugin("0000:1b:00.0", ("0000:1b:00.0", "amdgpu_xcp_1")) is None


def test_a_name_of_two_devices_is_not_mapped() -> None:
    twins = [Device("a", "amd", name="MI300X"), Device("b", "amd", name="MI300X")]
    assert Inventory(twins).plugin("MI300X") is None
    assert Inventory(twins[:1]).plugin("MI300X") == (twins[0], "exclusive")


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (SliceDevice(uuid=GPU, kind="gpu"), (WHOLE, "exclusive")),
        (SliceDevice(uuid=MIG, kind="mig"), (INSTANCE, "mig")),
        (SliceDevice(pci_bus_id="0000:1b:00.0"), (AMD, "exclusive")),
        (SliceDevice(pci_bus_id="0000:18:00.0", kind="gpu"), (WHOLE, "exclusive")),
        (SliceDevice(uuid="unknown", pci_bus_id="0000:18:00.0"), None),
        (SliceDevice(pci_bus_id="0000:18:00.0", kind="mig"), None),
        (SliceDevice(pci_bus_id="0000:18:00.0", kind="vfio"), None),
        (SliceDevice(), None),
    ],
)
def test_a_claim_maps_by_the_uuid_or_address_of_its_driver(
    inventory: Inventory, described: SliceDevice, expected: tuple[Device, str] | None
) -> None:
    """An instance has its GPU's PCI address, which does not identify it."""
    assert inventory.claimed(described) == expected


def test_the_sharing_values_are_the_contracts() -> None:
    values = {identity.EXCLUSIVE, identity.MIG, identity.TIME_SLICING, identity.MPS, identity.CLAIM}
    assert values == set(semconv.GPU_SHARINGS)
