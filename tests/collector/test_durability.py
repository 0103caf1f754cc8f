"""
Acknowledged telemetry arrives despite kills and outages; where it may be lost, the Collector reports how much.

The backend is away for five seconds here. `AI_OTEL_TEST_AWAY_S=120` makes it two minutes.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from harness.collector.backend import Backend
from harness.collector.durability import aimed, dropped, fill, logged, own, small_disk
from harness.collector.process import Tree, composed, running
from harness.polling import eventually, wait_until
from harness.server import free_port
from harness.telemetry.traffic import Senders, batches

pytestmark = pytest.mark.requires(part="collector")

AWAY_S = float(os.environ.get("AI_OTEL_TEST_AWAY_S", "5"))
# A retry may be up to 45 s after the one before: 30 s, and half as much by chance.
PATIENCE_S = 20 if AWAY_S < 30 else 90


def stateful(**choice: object) -> Tree:
    return composed(role="gateway_stateful", features=("local",), backends=("otlp_http",), **choice)


def ports() -> dict[str, int]:
    """The same for each life of a Collector: its senders know one address."""
    return {name: free_port() for name in ("health", "self", "grpc", "http")}


def arrived(backend: Backend, senders: Senders) -> bool:
    """Every span that was acknowledged, and none that was never sent."""
    everything = wait_until(lambda: backend.ids() >= senders.acknowledged, PATIENCE_S)
    return bool(everything) and backend.ids() <= {one for batch in senders.work for one in batch.ids}


# ---------------------------------------------------------------- the process dies


@pytest.mark.fault(
    "collector", "a Collector with persistence is killed under full load", "no acknowledged span is lost"
)
def test_what_was_acknowledged_survives_kills_under_full_load(tmp_path) -> None:
    places = ports()
    with Backend() as backend, Senders(places["http"], batches(600, 100)) as senders:
        # Slow enough that a queue is there to be lost.
        backend.delay_s = 0.1
        environment = {"AI_OTEL_BACKEND_URL": backend.url}
        waiting = []
        for life in range(3):
            with running(stateful(), tmp_path, environment, places) as collector:
                eventually(lambda: len(senders.acknowledged) >= 15_000 * (life + 1), 30)  # noqa: B023
                collector.process.kill()
                collector.process.wait()
                waiting.append(len(senders.acknowledged - backend.ids()))
        with running(stateful(), tmp_path, environment, places) as collector:
            assert senders.join(60)
            assert senders.refused.keys() <= {0, 503}
            assert len(senders.acknowledged) == 60_000
            assert arrived(backend, senders)
        assert all(waiting), f"each kill met spans that only the disk had: {waiting}"
        # What is written again at a start, and would be lost by another kill just then: what eight consumers were
        # sending, and the next one.
        again = [record["numberOfItems"] for record in logged(collector, "Fetching items left")]
        assert len(again) == 3
        assert max(again) <= 9


@pytest.mark.fault("collector", "the first tier dies", "what it acknowledged arrives after its restart")
def test_what_the_first_tier_acknowledged_survives_its_death(tmp_path) -> None:
    places, second = ports(), ports()
    tree = aimed(composed(role="gateway", features=("local",)), [f"127.0.0.1:{second['grpc']}"])
    with Backend() as backend, Senders(places["http"], batches(100, 50)) as senders:
        with running(tree, tmp_path / "first", ports=places) as collector:
            assert senders.join(30)
            collector.process.kill()
            collector.process.wait()
        assert len(senders.acknowledged) == 5_000
        environment = {"AI_OTEL_BACKEND_URL": backend.url}
        with running(stateful(), tmp_path / "second", environment, second), running(tree, tmp_path / "first"):
            assert arrived(backend, senders)


# ---------------------------------------------------------------- the backend is away


@pytest.mark.fault("collector", "the backend is away for minutes", "what was acknowledged meanwhile arrives")
def test_what_was_acknowledged_while_the_backend_was_away_arrives(tmp_path) -> None:
    places = ports()
    with Backend() as backend, Senders(places["http"], batches(200, 50), threads=1, pause_s=AWAY_S / 200) as senders:
        backend.leave()
        environment = {"AI_OTEL_BACKEND_URL": backend.url}
        with running(stateful(), tmp_path, environment, places):
            time.sleep(AWAY_S / 2)
        # An orderly end, as in a roll-out, in the midst of it.
        with running(stateful(), tmp_path, environment, places):
            assert senders.join(AWAY_S + 60)
            assert len(senders.acknowledged) == 10_000
            assert not backend.ids()
            backend.come()
            assert arrived(backend, senders)
            time.sleep(1)
            assert sum(backend.spans.values()) == 10_000


# ---------------------------------------------------------------- the disk


@pytest.mark.fault("collector", "the disk of the queue is nearly full", "new data is refused, accepted data is kept")
def test_a_nearly_full_disk_refuses_and_keeps_what_it_took(tmp_path) -> None:
    places = ports()
    environment = {"AI_OTEL_QUEUE_BYTES": "2000000", "AI_OTEL_QUEUE_DIR": str(tmp_path / "disk")}
    with small_disk(tmp_path / "disk", 9_000), Backend() as backend:
        environment["AI_OTEL_BACKEND_URL"] = backend.url
        backend.leave()
        with running(stateful(), tmp_path, environment, places) as collector:
            with Senders(places["http"], batches(400, 50), give_up=True) as senders:
                assert senders.join(30)
            assert senders.refused[503] > 0
            refused = sum(senders.refused.values()) * 50
            assert own(collector.own_metrics(), "otelcol_exporter_enqueue_failed_spans") == refused
            assert len(senders.acknowledged) == 20_000 - refused
            collector.process.kill()
            collector.process.wait()
        with running(stateful(), tmp_path, environment, places) as collector:
            backend.come()
            assert arrived(backend, senders)
            assert "no space left" not in collector.output()


@pytest.mark.fault(
    "collector", "the disk of the queue is full", "data is refused with an error, and accepted when there is room"
)
def test_a_full_disk_refuses_aloud_and_goes_on_when_there_is_room_again(tmp_path) -> None:
    places = ports()
    with small_disk(tmp_path / "disk", 4_000) as disk, Backend() as backend:
        environment = {"AI_OTEL_BACKEND_URL": backend.url, "AI_OTEL_QUEUE_DIR": str(disk)}
        with running(stateful(), tmp_path, environment, places) as collector:
            ballast = fill(disk)
            with Senders(places["http"], batches(20, 200), give_up=True, threads=1) as during:
                assert during.join(30)
            assert during.refused[503] > 0
            assert own(collector.own_metrics(), "otelcol_exporter_enqueue_failed_spans") == during.refused[503] * 200
            (first, *_) = logged(collector, "Exporting failed. Rejecting data.")
            assert "no space left on device" in first["error"]
            ballast.unlink()
            with Senders(places["http"], batches(40, 100)) as after:
                assert after.join(30)
                assert len(after.acknowledged) == 4_000
                assert arrived(backend, after)


# ---------------------------------------------------------------- without persistence


def test_without_persistence_an_orderly_end_says_how_much_is_lost(tmp_path) -> None:
    with Backend() as backend:
        backend.leave()
        tree = stateful(without=("persistence",))
        with running(tree, tmp_path, {"AI_OTEL_BACKEND_URL": backend.url}) as collector:
            with Senders(collector.ports["http"], batches(100, 50)) as senders:
                assert senders.join(30)
            page = collector.own_metrics()
            accepted = own(page, "otelcol_receiver_accepted_spans")
            assert accepted == len(senders.acknowledged) == 5_000
            assert own(page, "otelcol_exporter_queue_size", data_type="traces") > 0
            collector.process.send_signal(signal.SIGTERM)
            collector.process.wait(30)
        assert dropped(collector) == 5_000


def test_without_persistence_a_kill_loses_what_its_metrics_last_said(tmp_path) -> None:
    places, tree = ports(), stateful(without=("persistence",))
    with Backend() as backend:
        environment = {"AI_OTEL_BACKEND_URL": backend.url}
        with running(tree, tmp_path, environment, places) as collector:
            with Senders(places["http"], batches(20, 50)) as before:
                assert before.join(30)
                assert arrived(backend, before)
            backend.leave()
            with Senders(places["http"], batches(60, 50)) as after:
                assert after.join(30)
            page = collector.own_metrics()
            collector.process.kill()
            collector.process.wait()
        backend.come()
        with running(tree, tmp_path, environment, places):
            time.sleep(1)
        lost = own(page, "otelcol_receiver_accepted_spans") - own(page, "otelcol_exporter_sent_spans")
        assert lost == len(after.acknowledged - backend.ids()) == 3_000


@pytest.mark.fault("collector", "a backend refuses data for good", "it is counted and logged")
def test_what_a_backend_refuses_for_good_is_counted_and_logged(tmp_path) -> None:
    with Backend() as backend:
        backend.answer = 400
        with running(stateful(), tmp_path, {"AI_OTEL_BACKEND_URL": backend.url}) as collector:
            with Senders(collector.ports["http"], batches(20, 50)) as senders:
                assert senders.join(30)
            eventually(lambda: own(collector.own_metrics(), "otelcol_exporter_send_failed_spans") == 1_000, 20)
            # Of equal records the log keeps the first ten in ten seconds.
            assert 0 < dropped(collector) <= 1_000
