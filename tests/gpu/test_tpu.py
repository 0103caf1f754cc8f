"""The TPU source against a gRPC server of libtpu's published protocol."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ai_otel.gpu import TRACES
from ai_otel.gpu.source import Device, DeviceLost, Options, Support, Unavailable
from ai_otel.gpu.tpu.metric_service import TABLE, decode_response, encode_request
from ai_otel.gpu.tpu.source import BANDWIDTH, DUTY_CYCLE, MEMORY_TOTAL, MEMORY_USED, METRICS, TpuSource
from harness.gpu import tpu
from harness.gpu.tpu import GIB, Chips, messages, served

pytestmark = [pytest.mark.requires(**each) for each in tpu.REQUIRES]


@contextmanager
def opened(chips: Chips) -> Iterator[tuple[TpuSource, list[Device]]]:
    with served(chips) as address:
        source = TpuSource(Options(tpu_address=address))
        try:
            yield source, list(source.open())
        finally:
            source.close()


# ---------------------------------------------------------------- messages


@given(
    values=st.dictionaries(st.integers(0, 2**31), st.floats(allow_nan=False) | st.integers(0, 2**62), max_size=20),
    text_ids=st.booleans(),
)
def test_responses_of_googles_protobuf_are_decoded(values: dict[int, float], text_ids: bool) -> None:
    for metric, kind in ((DUTY_CYCLE, float), (MEMORY_USED, int)):
        of_kind = {number: value for number, value in values.items() if isinstance(value, kind)}
        response = Chips(values={metric: of_kind}, text_ids=text_ids).response(metric)
        assert decode_response(response.SerializeToString()) == of_kind


@pytest.mark.parametrize("metric", METRICS)
def test_an_encoded_request_is_decodable_by_googles_protobuf(metric: str) -> None:
    request = messages()["MetricRequest"].FromString(encode_request(metric))
    assert (request.metric_name, request.skip_node_aggregation) == (metric, False)


def test_every_field_that_is_read_is_in_the_published_file() -> None:
    for name, fields in TABLE.items():
        if name == "Measure":
            continue
        published = messages()[name].DESCRIPTOR.fields_by_name
        for field, (number, _) in fields.items():
            if field != "counter":  # published, and not simulated
                assert published[field].number == number, field
    assert {name: row[0] for name, row in TABLE["Measure"].items()} == {
        name: messages()["Gauge"].DESCRIPTOR.fields_by_name[name].number for name in TABLE["Measure"]
    }


@given(st.binary(max_size=200))
def test_undecodable_bytes_raise_a_value_error(noise: bytes) -> None:
    with suppress(ValueError):
        decode_response(noise)


def test_a_truncated_message_raises_a_value_error() -> None:
    whole = Chips().response(DUTY_CYCLE).SerializeToString()
    with pytest.raises(ValueError, match="parsing"):
        decode_response(whole[:-3])


def test_unknown_fields_are_ignored() -> None:
    """A 32-bit, a 64-bit and a text field with unknown numbers precede the message."""
    unknown = bytes((15 << 3 | 5,)) + struct.pack("<f", 1.5) + bytes((14 << 3 | 1,)) + struct.pack("<d", 2.5)
    unknown += bytes((13 << 3 | 2, 3)) + b"new"
    whole = Chips().response(MEMORY_USED).SerializeToString()
    assert decode_response(unknown + whole) == {0: 12 * GIB, 1: 0}


# ---------------------------------------------------------------- chips and cores


@pytest.mark.parametrize("text_ids", [False, True])
def test_a_chips_number_may_be_an_integer_or_a_text(text_ids: bool) -> None:
    with opened(Chips(text_ids=text_ids)) as (source, devices):
        assert [device.id for device in devices] == ["tpu-0", "tpu-1"]
        assert source.read(devices[0]).utilization == 0.875


def test_chips_are_in_numerical_order() -> None:
    values: dict[str, dict[int, float]] = {metric: {n: float(n) for n in range(12)} for metric in METRICS}
    with opened(Chips(values=values, text_ids=True)) as (source, devices):
        assert [source.read(device).utilization for device in devices] == [n / 100 for n in range(12)]


def test_the_memory_of_two_cores_of_a_chip_is_added() -> None:
    """v2, v3 and v7x report the duty cycle by chip and memory by core."""
    chips = Chips(
        values={
            DUTY_CYCLE: {0: 50.0, 1: 25.0},
            MEMORY_TOTAL: dict.fromkeys(range(4), 16 * GIB),
            MEMORY_USED: {0: GIB, 1: 2 * GIB, 2: 0, 3: 4 * GIB},
            BANDWIDTH: {0: 10.0, 1: 30.0, 2: 0.0, 3: 0.0},
        }
    )
    with opened(chips) as (source, devices):
        one, two = map(source.read, devices)
        assert (one.memory_total_bytes, one.memory_used_bytes) == (32 * GIB, 3 * GIB)
        assert (two.memory_total_bytes, two.memory_used_bytes) == (32 * GIB, 4 * GIB)
        assert one.memory_bandwidth_utilization == pytest.approx(0.2)
        assert one.utilization == 0.5


def test_memory_that_does_not_match_the_chips_is_invalid() -> None:
    with opened(Chips()) as (source, devices):
        source.read(devices[0])
    chips = Chips()
    chips.values[MEMORY_USED] = {4: GIB, 5: GIB, 6: GIB}
    with opened(chips) as (source, devices):
        assert source.read(devices[0]).absent["memory_used_bytes"] is Support.INVALID


# ---------------------------------------------------------------- absent values


def test_a_tpu_has_no_energy_power_or_temperature() -> None:
    with opened(Chips()) as (source, devices):
        reading = source.read(devices[0])
        assert (source.read_energy(devices[0]), reading.energy_j, reading.power_w) == (None, None, None)
        for name in ("energy_j", "power_w", "temperature_c", "errors", "power_limit_w"):
            assert reading.absent[name] is Support.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("code", "support"),
    [
        ("NOT_FOUND", Support.NOT_FOUND),
        ("UNIMPLEMENTED", Support.NOT_FOUND),
        ("PERMISSION_DENIED", Support.NO_PERMISSION),
        ("INTERNAL", Support.ERROR),
    ],
)
def test_a_refused_metric_is_absent_and_the_others_are_read(code: str, support: Support) -> None:
    with opened(Chips(codes={BANDWIDTH: code})) as (source, devices):
        reading = source.read(devices[0])
        assert reading.absent["memory_bandwidth_utilization"] is support
        assert reading.utilization == 0.875


def test_an_impossible_ratio_is_invalid() -> None:
    chips = Chips()
    chips.values[DUTY_CYCLE] = {0: 250.0, 1: float("nan")}
    with opened(chips) as (source, devices):
        assert [source.read(device).absent["utilization"] for device in devices] == [Support.INVALID] * 2


# ---------------------------------------------------------------- the service


def test_one_request_a_metric_serves_all_chips() -> None:
    chips = Chips()
    with opened(chips) as (source, devices):
        for _ in range(3):
            for device in devices:
                source.read(device)
    assert chips.asked == [*METRICS] * 3


def test_when_the_workload_ends_its_chips_are_lost() -> None:
    with served(Chips()) as address:
        source = TpuSource(Options(tpu_address=address))
        devices = source.open()
        source.read(devices[0])
    with pytest.raises(DeviceLost):
        source.read(devices[0])
    source.close()


@pytest.mark.parametrize("chips", [None, Chips(values={})], ids=["no server", "no metrics"])
def test_without_a_workload_the_source_is_unavailable(chips: Chips | None, tmp_path: Path) -> None:
    with served(chips or Chips()) as address:
        source = TpuSource(Options(tpu_address=address if chips else "localhost:1"))
        with pytest.raises(Unavailable, match="try again while one runs") as why:
            source.open()
    here: Any = any(Path(trace).exists() for trace in TRACES["tpu"])
    assert why.value.installed is here


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://localhost:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with opened(Chips()) as (source, devices):
        assert source.read(devices[0]).utilization == 0.875
