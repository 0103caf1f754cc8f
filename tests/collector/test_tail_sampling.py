"""Ten thousand traces through both tiers of the gateway: what must be kept is kept whole, the rest is a fair share."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.collector.durability import aimed, own
from harness.collector.process import Collector, Tree, composed, exports, running
from harness.polling import eventually
from harness.telemetry.llm_traces import NEVER_LEFT_OUT, SHARED, Trace, requests, traces
from harness.telemetry.traffic import grouped, post, span, spans_request

pytestmark = pytest.mark.requires(part="collector")

COUNTS = {
    "plain": 5_000,
    "lookalike": 300,
    "with_probe": 200,
    "status": 400,
    "failed": 200,
    "rejected": 200,
    "cancelled": 100,
    "slow_token": 300,
    "slow_chunk": 300,
    "long": 200,
    "truncated": 400,
    "huge_input": 100,
    "huge_output": 100,
    "probe": 2_000,
    "probe_failed": 200,
}
BASELINE_PERCENT = 10
# Short, so that the test is; all of a trace's spans are sent within it.
WAIT = {"AI_OTEL_DECISION_WAIT": "8s", "AI_OTEL_DECISION_WAIT_AFTER_ROOT": "4s"}


def second_tier() -> Tree:
    return composed(
        role="gateway_stateful", features=("local", "tail_sampling"), without=("persistence",), backends=("file",)
    )


def kept(*directories: Path) -> list[tuple[str, str, str]]:
    """Instance, trace and span of everything that left."""
    return [
        (directory.name, found["traceId"], found["spanId"])
        for directory in directories
        for export in exports(directory / "out.jsonl")
        for resource_spans in export.get("resourceSpans", ())
        for scope in resource_spans["scopeSpans"]
        for found in scope["spans"]
    ]


@dataclass
class Replay:
    """What was sent, and where its spans came out."""

    sent: list[Trace]
    places: dict[str, Counter[str]]
    """Trace → instance → how many spans."""
    directories: list[Path]
    front: Collector
    instances: list[Collector]

    def of(self, kinds: set[str]) -> list[Trace]:
        return [trace for trace in self.sent if trace.kind in kinds]

    def is_whole(self, trace: Trace) -> bool:
        """Every span of it, once, at one instance."""
        return list(self.places.get(trace.id.hex(), Counter()).values()) == [len(trace.spans)]

    def is_gone(self, trace: Trace) -> bool:
        return trace.id.hex() not in self.places


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Iterator[Replay]:
    directory = tmp_path_factory.mktemp("tiers")
    environment = {**WAIT, "AI_OTEL_BASELINE_PERCENT": str(BASELINE_PERCENT)}
    sent = traces(COUNTS)
    with ExitStack() as stack:
        directories = [directory / name for name in ("one", "two")]
        instances = [stack.enter_context(running(second_tier(), place, environment)) for place in directories]
        addresses = [f"127.0.0.1:{instance.ports['grpc']}" for instance in instances]
        tree = aimed(composed(role="gateway", features=("local",)), addresses)
        front = stack.enter_context(running(tree, directory / "front"))
        for body in requests(sent, 100):
            assert post(front.ports["http"], body)[0] == 200
        expected = sum(len(trace.spans) for trace in sent)
        eventually(lambda: _received(instances) == expected, 20)
        eventually(lambda: _decided(instances) == len(sent), 30)
        for instance, place in zip(instances, directories, strict=True):
            pass_sentinel(instance.ports["http"], place)
        places: dict[str, Counter[str]] = defaultdict(Counter)
        for instance_name, trace_id, span_id in kept(*directories):
            if not bytes.fromhex(span_id).startswith(SENTINEL):
                places[trace_id][instance_name] += 1
        yield Replay(sent, places, directories, front, instances)


SENTINEL = b"last"
_sentinels = itertools.count()


def pass_sentinel(port: int, directory: Path) -> None:
    """
    Send one more span of a trace that this instance keeps, and wait until it is out.

    Decisions are remembered, so that it leaves at once; what was decided before has left by then.
    """
    trace_id = eventually(lambda: [trace for _, trace, _ in kept(directory)], 10)[0]
    last = span("sentinel", bytes.fromhex(trace_id), SENTINEL + next(_sentinels).to_bytes(4, "big"))
    assert post(port, spans_request([last]).SerializeToString())[0] == 200
    eventually(lambda: last.span_id.hex() in {one for _, _, one in kept(directory)}, 10)


def _received(instances: list[Collector]) -> float:
    return sum(own(instance.own_metrics(), "otelcol_receiver_accepted_spans") for instance in instances)


def _decided(instances: list[Collector]) -> float:
    name = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    return sum(own(instance.own_metrics(), name) for instance in instances)


def test_both_instances_had_their_part(replay) -> None:
    shares = Counter(instance for places in replay.places.values() for instance in places)
    assert len(shares) == 2
    assert min(shares.values()) > 0.2 * sum(shares.values())


def test_every_error_and_every_slow_truncated_or_huge_trace_is_kept_whole(replay) -> None:
    must = replay.of(NEVER_LEFT_OUT)
    assert len(must) == 2_500
    assert [trace for trace in must if not replay.is_whole(trace)] == []


def test_probes_are_gone(replay) -> None:
    assert [trace for trace in replay.of({"probe"}) if not replay.is_gone(trace)] == []


def test_the_baseline_is_the_share_that_was_asked_for(replay) -> None:
    rest = replay.of(SHARED)
    share = sum(not replay.is_gone(trace) for trace in rest)
    expected, deviation = len(rest) * 0.1, math.sqrt(len(rest) * 0.1 * 0.9)
    assert abs(share - expected) < 4 * deviation, f"{share} of {len(rest)}"


@pytest.mark.parametrize("kind", sorted(SHARED))
def test_what_is_no_probe_has_its_part_in_the_baseline(replay, kind) -> None:
    assert any(replay.is_whole(trace) for trace in replay.of({kind}))


def test_no_trace_is_kept_in_part_or_twice(replay) -> None:
    assert [trace for trace in replay.sent if not (replay.is_gone(trace) or replay.is_whole(trace))] == []


def test_spans_that_come_late_follow_what_was_decided(replay) -> None:
    # Of a trace that is kept for its error, of one that the baseline left out, and of a probe.
    error, probe = replay.of({"status"})[0], replay.of({"probe"})[0]
    left_out = next(trace for trace in replay.of({"plain"}) if replay.is_gone(trace))
    late = [span("late", trace.id, b"late" + trace.id[:4], parent=b"x" * 8) for trace in (error, left_out, probe)]
    assert post(replay.front.ports["http"], spans_request(late).SerializeToString())[0] == 200
    ids = {found.span_id.hex() for found in late}

    def came() -> set[tuple[str, str]]:
        return {(place, one) for place, _, one in kept(*replay.directories) if one in ids}

    eventually(came, 10)
    for instance, directory in zip(replay.instances, replay.directories, strict=True):
        pass_sentinel(instance.ports["http"], directory)
    (place,) = replay.places[error.id.hex()]
    assert came() == {(place, late[0].span_id.hex())}


def test_the_byte_limit_holds_and_takes_no_error(tmp_path) -> None:
    sent = traces({"plain": 1_500, "huge_input": 500, "status": 500, "truncated": 100}, seed=3)
    limits = {"AI_OTEL_BASELINE_BYTES_PER_S": "20000", "AI_OTEL_HUGE_BYTES_PER_S": "10000"}
    environment = {**WAIT, **limits, "AI_OTEL_BASELINE_PERCENT": "100", "AI_OTEL_DECISION_WAIT": "3s"}
    with running(second_tier(), tmp_path, environment) as collector:
        started = time.monotonic()
        for body in requests(sent, 100):
            assert post(collector.ports["http"], body)[0] == 200
        eventually(lambda: _decided([collector]) == len(sent), 20)
        took_s = time.monotonic() - started
    out = Counter(trace_id for _, trace_id, _ in kept(tmp_path))
    for kind, allowed in {"plain": 20_000, "huge_input": 10_000}.items():
        left = sum(
            sum(found.ByteSize() for found in trace.spans)
            for trace in sent
            if trace.kind == kind and trace.id.hex() in out
        )
        assert 0 < left < allowed * (2 + took_s)
        assert left < 0.8 * sum(found.ByteSize() for trace in sent if trace.kind == kind for found in trace.spans)
    for trace in sent:
        if trace.kind in {"status", "truncated"}:
            assert out[trace.id.hex()] == len(trace.spans)


ROOM = 300
"""Traces that the sampler holds in memory."""


@pytest.mark.fault("collector", "tail sampling has no room", "senders wait, and no trace is lost")
def test_senders_wait_for_room_and_no_trace_is_lost(tmp_path) -> None:
    sent = traces({"status": 900}, seed=4)
    environment = {
        "AI_OTEL_TRACES_IN_MEMORY": str(ROOM),
        "AI_OTEL_DECISION_WAIT": "2s",
        "AI_OTEL_DECISION_WAIT_AFTER_ROOT": "1s",
    }
    with running(second_tier(), tmp_path, environment) as collector:
        for chunk in grouped(sent, 100):
            body = spans_request(found for trace in chunk for found in trace.spans).SerializeToString()
            assert post(collector.ports["http"], body, timeout_s=30)[0] == 200
        # As many again may be on their way into memory; without a limit, none has been decided by now.
        assert _decided([collector]) >= len(sent) - 2 * ROOM, "the last was taken before there was room for it"
        eventually(lambda: _decided([collector]) == len(sent), 20)
    out = Counter(trace_id for _, trace_id, _ in kept(tmp_path))
    assert [trace for trace in sent if out[trace.id.hex()] != len(trace.spans)] == []
