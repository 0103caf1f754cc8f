"""ResourceSlices that are not what the API defines: each costs itself only."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies

from ai_otel.agent import slices
from ai_otel.agent.api_server import MalformedAnswer
from ai_otel.agent.slices import SliceDevice, devices_of

DRIVER = "gpu.nvidia.com"
NAMED = {"driver": DRIVER, "pool": {"name": "node-1", "generation": 1}}
GOOD = {"spec": {**NAMED, "devices": [{"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-1"}}}]}}
TRUTH = {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1")}

SLICES: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a string": "slice",
    "a list": [GOOD],
    "an empty object": {},
    "spec null": {"spec": None},
    "spec a list": {"spec": [1]},
    "spec a string": {"spec": "x"},
    "driver missing": {"spec": {**NAMED, "driver": None}},
    "driver a list": {"spec": {**NAMED, "driver": ["x"]}},
    "pool a string": {"spec": {**NAMED, "pool": "node-1"}},
    "pool name a number": {"spec": {**NAMED, "pool": {"name": 1}}},
    "generation a word": {"spec": {**NAMED, "pool": {"name": "node-1", "generation": "newest"}}},
    "generation infinite": {"spec": {**NAMED, "pool": {"name": "node-1", "generation": float("inf")}}},
    "generation not a number": {"spec": {**NAMED, "pool": {"name": "node-1", "generation": float("nan")}}},
    "devices a string": {"spec": {**NAMED, "devices": "gpu-0"}},
    "devices an object": {"spec": {**NAMED, "devices": {"gpu-0": {}}}},
    "device a string": {"spec": {**NAMED, "devices": ["gpu-0"]}},
    "device null": {"spec": {**NAMED, "devices": [None]}},
    "device without a name": {"spec": {**NAMED, "devices": [{}]}},
    "device name a list": {"spec": {**NAMED, "devices": [{"name": ["gpu-0"]}]}},
}

ATTRIBUTES: dict[str, Any] = {
    "attributes a list": {"attributes": [1]},
    "attributes a string": {"attributes": "uuid"},
    "basic a string": {"basic": "x"},
    "basic attributes a number": {"basic": {"attributes": 7}},
    "an attribute a string": {"attributes": {"uuid": "GPU-1"}},
    "an attribute a list": {"attributes": {"uuid": ["GPU-1"]}},
    "a string a number": {"attributes": {"uuid": {"string": 7}}},
    "a string an object": {"attributes": {"uuid": {"string": {"x": 1}}}},
}


@pytest.mark.fault(
    "gpu",
    "the API server returns a ResourceSlice of another shape than the API defines",
    "it is left out and counted, and the devices of the other slices are mapped",
)
@pytest.mark.parametrize("content", SLICES.values(), ids=SLICES)
def test_a_malformed_slice_is_left_out(content: Any) -> None:
    found = devices_of([content, GOOD])
    assert dict(found.devices) == TRUTH
    assert found.malformed == 1


@pytest.mark.parametrize("content", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_malformed_attributes_are_unknown(content: Any) -> None:
    device = {"name": "gpu-9", **content}
    found = devices_of([GOOD, {"spec": {**NAMED, "devices": [device]}}])
    assert dict(found.devices) == {**TRUTH, (DRIVER, "node-1", "gpu-9"): SliceDevice()}
    assert found.malformed == 0


JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(
            strategies.sampled_from(
                ["spec", "driver", "pool", "name", "generation", "devices", "attributes", "basic", "uuid", "string"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(strategies.lists(JSON, max_size=3))
def test_any_json_is_read(contents: list[Any]) -> None:
    found = devices_of([*contents, GOOD])
    assert all(isinstance(device, SliceDevice) for device in found.devices.values())


def test_the_number_of_devices_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MAX_DEVICES", 3)
    assert dict(devices_of([GOOD] * 3).devices) == TRUTH
    with pytest.raises(MalformedAnswer, match="more than 3 devices"):
        devices_of([GOOD] * 4)
