"""Labels without end make no series without end, only listed tenants are distinguished, and every sum stays right."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from harness.collector.hostile import memory_mb
from harness.collector.process import attributes_of, composed, exports, running
from harness.polling import eventually
from harness.telemetry.measurements import counter, gauge, histogram, metrics_request
from harness.telemetry.series import Point, newest
from harness.telemetry.traffic import post

pytestmark = pytest.mark.requires(part="collector")

TENANTS = {"AI_OTEL_TENANTS": "acme|globex-.*"}
REQUESTS, DURATION, USED = "proxy.requests", "proxy.request.duration", "proxy.budget.used"
MANY = 100_000


def through(
    feature: str, directory: Path, *metrics: Metric, environment: Mapping[str, str] | None = None
) -> dict[tuple[str, frozenset[tuple[str, Any]]], Point]:
    """What becomes of one export; by name and labels."""
    tree = composed(
        role="sidecar", engines=("vllm",), features=("local", feature), without=("persistence",), backends=("file",)
    )
    # One export of everything is larger than a request may be; what is asked here is what becomes of it.
    with running(tree, directory, {"AI_OTEL_HTTP_BYTES": "67108864", **(environment or {})}) as collector:
        assert post(collector.ports["http"], metrics_request(*metrics), "/v1/metrics", timeout_s=60)[0] == 200
        eventually(lambda: exports(directory / "out.jsonl"), 30)
        # 100,000 points are 10 MB as they come; a Collector without any takes 90.
        assert memory_mb(collector.process.pid) < 700
    return {(name, labels): point for (name, _, labels), point in newest(directory / "out.jsonl").items()}


def labels(**of: Any) -> frozenset[tuple[str, Any]]:
    return frozenset((key.replace("__", "."), value) for key, value in of.items())


# ---------------------------------------------------------------- tenants


def test_named_tenants_have_series_of_their_own_and_all_others_are_one(tmp_path) -> None:
    names = ["acme", "globex-eu", "initech", "acme2", "", "globex"]
    found = through(
        "tenants",
        tmp_path,
        counter(REQUESTS, [({"tenant.id": name, "code": 200}, 10) for name in names]),
        histogram(DURATION, [({"tenant.id": name}, (1, 2, 3)) for name in names]),
        gauge(USED, [({"tenant.id": name}, float(len(name))) for name in names]),
        environment=TENANTS,
    )
    assert {key: point.value for key, point in found.items()} == {
        (REQUESTS, labels(tenant__id="acme", code=200)): 10,
        (REQUESTS, labels(tenant__id="globex-eu", code=200)): 10,
        (REQUESTS, labels(tenant__id="other", code=200)): 40,
        (DURATION, labels(tenant__id="acme")): (6, 32.1, (1, 2, 3)),
        (DURATION, labels(tenant__id="globex-eu")): (6, 32.1, (1, 2, 3)),
        (DURATION, labels(tenant__id="other")): (24, pytest.approx(128.4), (4, 8, 12)),
        (USED, labels(tenant__id="acme")): 4.0,
        (USED, labels(tenant__id="globex-eu")): 9.0,
        (USED, labels(tenant__id="other")): 7.0,
    }


def test_without_a_list_all_tenants_are_one(tmp_path) -> None:
    found = through("tenants", tmp_path, counter(REQUESTS, [({"tenant.id": name}, 1) for name in ("acme", "b")]))
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, labels(tenant__id="other")): 2}


def test_any_attribute_may_name_the_tenant(tmp_path) -> None:
    found = through(
        "tenants",
        tmp_path,
        counter(REQUESTS, [({"user.id": name, "user.email": f"{name}@example.org"}, 1) for name in ("acme", "b", "c")]),
        environment={**TENANTS, "AI_OTEL_TENANT_KEY": "user.id"},
    )
    values = {key: point.value for key, point in found.items()}
    assert values == {(REQUESTS, labels(user__id="acme")): 1, (REQUESTS, labels(user__id="other")): 2}


def test_attributes_of_a_user_are_removed_from_metrics(tmp_path) -> None:
    personal = {
        "user.id": "u", "user.name": "n", "enduser.id": "e", "client.address": "192.0.2.1", "session.id": "s",
        "gen_ai.conversation.id": "c", "end_user": "x", "api_key_alias": "k", "user_agent.original": "curl",
    }  # fmt: skip
    kept = {"server.address": "10.0.0.1", "user_group_count": 3, "usermode": "fast"}
    found = through(
        "tenants",
        tmp_path,
        counter(REQUESTS, [({**kept, **personal, "user.id": f"u{n}"}, 1) for n in range(50)]),
    )
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, frozenset(kept.items())): 50}
    written = (tmp_path / "out.jsonl").read_text()
    assert "192.0.2.1" not in written
    resource = exports(tmp_path / "out.jsonl")[0]["resourceMetrics"][0]["resource"]
    assert attributes_of(resource).keys() == {"service.name", "service.instance.id"}


@pytest.mark.fault("collector", "100,000 tenants", "metrics keep the named ones; all others are one")
def test_a_hundred_thousand_tenants_are_three(tmp_path) -> None:
    points = [({"tenant.id": f"t{number}"}, 1) for number in range(MANY)]
    points += [({"tenant.id": "acme"}, 5), ({"tenant.id": "globex-1"}, 7)]
    found = through("tenants", tmp_path, counter(REQUESTS, points), environment=TENANTS)
    assert {key: point.value for key, point in found.items()} == {
        (REQUESTS, labels(tenant__id="acme")): 5,
        (REQUESTS, labels(tenant__id="globex-1")): 7,
        (REQUESTS, labels(tenant__id="other")): MANY,
    }


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("key", ["request_id", "trace_id", "gen_ai.response.id", "url.full"])
@pytest.mark.fault("collector", "a label is new with each request", "it is removed")
def test_a_label_that_is_new_with_each_request_is_taken_off(tmp_path, key) -> None:
    found = through("cardinality", tmp_path, counter(REQUESTS, [({key: str(n), "code": 200}, 1) for n in range(500)]))
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, labels(code=200)): 500}


def test_a_hundred_thousand_values_of_one_label_are_one_series(tmp_path) -> None:
    points = [({"request_id": f"r{number}", "code": 200}, 2) for number in range(MANY)]
    found = through("cardinality", tmp_path, counter(REQUESTS, points))
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, labels(code=200)): 2 * MANY}


def test_labels_that_the_operator_names_are_taken_off_too(tmp_path) -> None:
    points = [({"job_number": number, "code": 200}, 1) for number in range(20)]
    named = {"AI_OTEL_UNBOUNDED": "job_.*"}
    found = through("cardinality", tmp_path, counter(REQUESTS, points), environment=named)
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, labels(code=200)): 20}


def test_values_that_are_random_numbers_are_one_but_devices_stay(tmp_path) -> None:
    numbers = [str(uuid.uuid4()) for _ in range(30)]
    found = through(
        "cardinality",
        tmp_path,
        counter(REQUESTS, [({"worker": number}, 1) for number in numbers]),
        gauge("hw.gpu.utilization", [({"hw.id": number}, 0.5) for number in numbers]),
        gauge("proxy.gpu", [({"id": f"GPU-{number}"}, 0.5) for number in numbers]),
    )
    assert found[REQUESTS, labels(worker="other")].value == 30
    assert len(found) == 1 + 30 + 30


def test_names_of_adapters_and_models_come_from_the_list(tmp_path) -> None:
    running_adapters = "ai_otel.lora.adapter.running"
    found = through(
        "cardinality",
        tmp_path,
        gauge(running_adapters, [({"ai_otel.lora.name": name}, 1.0) for name in ("sql", "sql-2", "a", "b", "c")]),
        counter(REQUESTS, [({"gen_ai.request.model": name}, 1) for name in ("llama-8b", "x1", "x2")]),
        environment={"AI_OTEL_LORA_NAMES": "sql.*", "AI_OTEL_MODELS": "llama-.*"},
    )
    assert {key: point.value for key, point in found.items()} == {
        (running_adapters, labels(ai_otel__lora__name="sql")): 1,
        (running_adapters, labels(ai_otel__lora__name="sql-2")): 1,
        (running_adapters, labels(ai_otel__lora__name="other")): 3,
        (REQUESTS, labels(gen_ai__request__model="llama-8b")): 1,
        (REQUESTS, labels(gen_ai__request__model="other")): 2,
    }


def test_long_values_are_cut_between_characters_and_counted_together(tmp_path) -> None:
    # 255 bytes, then characters of three: the 256th byte is in the midst of one.
    start = "x" * 255
    found = through("cardinality", tmp_path, counter(REQUESTS, [({"text": start + "€" * n}, 1) for n in (1, 2, 90)]))
    assert {key: point.value for key, point in found.items()} == {(REQUESTS, labels(text=start)): 3}


def test_many_labels_become_fewer_and_the_contracts_stay(tmp_path) -> None:
    many = {f"l{number}": "v" for number in range(60)}
    bounded = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "error.type": "500"}
    found = through("cardinality", tmp_path, counter(REQUESTS, [({**many, **bounded}, 4)]))
    ((_, kept),) = found
    assert len(kept) == 24
    assert kept >= frozenset(bounded.items())


@pytest.mark.fault("collector", "one series has absurd labels", "it is dropped, the others stay")
def test_a_series_with_absurd_labels_is_left_out_and_the_others_stay(tmp_path) -> None:
    found = through(
        "cardinality",
        tmp_path,
        counter(
            REQUESTS,
            [
                ({f"l{number}": "v" for number in range(200)}, 1),
                ({"k" * 129: "v"}, 1),
                ({"bell\a": "v"}, 1),
                ({"code": 200}, 1),
            ],
        ),
    )
    assert found.keys() == {(REQUESTS, labels(code=200))}


def test_what_is_bounded_passes_as_it_came(tmp_path) -> None:
    sent = [
        counter(REQUESTS, [({"code": code, "ok": code < 300, "share": 0.5}, code) for code in (200, 404, 500)]),
        histogram(DURATION, [({"gen_ai.request.model": "meta-llama/Llama-3.1-8B"}, (1, 0, 2))]),
        gauge(USED, [({"zone": "a"}, 1.5), ({}, 2.5)]),
    ]
    for feature in ("cardinality", "tenants"):
        found = through(feature, tmp_path / feature, *sent)
        assert {(name, json.dumps(sorted(kept))): point.value for (name, kept), point in found.items()} == {
            **{
                (REQUESTS, json.dumps([["code", code], ["ok", code < 300], ["share", 0.5]])): code
                for code in (200, 404, 500)
            },
            (DURATION, '[["gen_ai.request.model", "meta-llama/Llama-3.1-8B"]]'): (3, pytest.approx(20.1), (1, 0, 2)),
            (USED, '[["zone", "a"]]'): 1.5,
            (USED, "[]"): 2.5,
        }
