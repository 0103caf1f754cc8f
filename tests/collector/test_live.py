"""
Real servers under load, through every tier with TLS, tokens and mTLS on, into a real Prometheus: one set of queries for
all of them, and the answers are what the load generator measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from ai_otel.collector.rules import violations
from ai_otel.contract import load as contract
from harness import servers
from harness.certificates import Pair
from harness.clients.load import CROWD, Load, Timed
from harness.clients.senders import Sender, plain
from harness.collector import tiers
from harness.collector.tiers import Tiers
from harness.polling import eventually
from harness.telemetry import prometheus
from harness.telemetry.dashboards import DIRECTORY, Dashboard
from harness.telemetry.fleet import example
from harness.telemetry.prometheus import Prometheus, Series, quantile_bounds

pytestmark = [
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(part="prometheus"),
    pytest.mark.requires(part="vllm"),
    pytest.mark.requires(part="servers"),
    pytest.mark.requires(module="xllamacpp"),
    pytest.mark.requires(command="openssl", why="the tiers show each other certificates"),
]

# ---------------------------------------------------------------- one set of queries for all engines

ENGINE = "gen_ai_provider_name"
INPUT_TOKENS = f"sum by ({ENGINE}) (ai_otel_usage_input_tokens_total)"
OUTPUT_TOKENS = f"sum by ({ENGINE}) (ai_otel_usage_output_tokens_total)"
TOKENS_PER_S = f"sum by ({ENGINE}) (increase(ai_otel_usage_output_tokens_total[%(window)s])) / %(seconds)s"
FINISHED = f"sum by ({ENGINE}, error_type) (ai_otel_request_finished_total) > 0"
REJECTED = f"sum by ({ENGINE}, error_type) (ai_otel_request_rejected_total) > 0"
RUNNING = f"sum by ({ENGINE}) (ai_otel_request_running)"
WAITING = f"sum by ({ENGINE}) (ai_otel_request_waiting)"
KV_USE = f"max by ({ENGINE}) (ai_otel_kv_cache_utilization_ratio)"
KV_TOKENS = f"sum by ({ENGINE}) (ai_otel_kv_cache_utilization_ratio * on ({ENGINE}) ai_otel_kv_cache_capacity)"
TIME = f"sum by ({ENGINE}, ai_otel_phase) (ai_otel_request_time_seconds_total)"
QUANTILE = f"histogram_quantile(0.95, sum by (le, {ENGINE}) (increase(%(metric)s_bucket[%(window)s])))"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
DURATION = "gen_ai_server_request_duration_seconds"

ASKED = {
    "ai_otel.usage.input_tokens": INPUT_TOKENS,
    "ai_otel.usage.output_tokens": OUTPUT_TOKENS,
    "ai_otel.request.finished": FINISHED,
    "ai_otel.request.running": RUNNING,
    "ai_otel.request.waiting": WAITING,
    "ai_otel.kv_cache.utilization": KV_USE,
    "ai_otel.request.time": TIME,
    "gen_ai.server.time_to_first_token": f"sum by ({ENGINE}) ({FIRST_TOKEN}_count)",
    "gen_ai.server.request.duration": f"sum by ({ENGINE}) ({DURATION}_count)",
}


@dataclass
class Live:
    """All of it, after the loads; everything is still up, and nothing moves any more."""

    prometheus: Prometheus
    tiers: Tiers
    loads: dict[str, Load]

    def of(self, engine: str, expression: str, at_s: float | None = None, **labels: str) -> float:
        """The one value of an engine, and of further labels."""
        wanted = {ENGINE: engine, **labels}
        found = [each for each in self.prometheus.query(expression, at_s) if wanted.items() <= each.labels.items()]
        assert len(found) == 1, (expression, found)
        return found[0].value

    def moving(self, engine: str, expression: str, **more: str) -> float:
        """The same of a query over the time in which the engine's load ran."""
        load = self.loads[engine]
        seconds = load.ended_s - load.began_s + 3
        words = {"window": f"{seconds * 1000:.0f}ms", "seconds": str(load.ended_s - load.began_s), **more}
        return self.of(engine, expression % words, load.ended_s + 2)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("live")
    with ExitStack() as stack:
        asked = stack.enter_context(prometheus.running(example(), directory / "prometheus"))
        running = stack.enter_context(tiers.running(asked.url, directory / "tiers"))
        loads = {}
        for engine, start in servers.START.items():
            started = stack.enter_context(start(directory))
            loads[engine] = Load(engine, Timed(started.server.url))
            running.sidecar(engine, started.page, of_pod(engine))
        for load in loads.values():
            load.run()
        live = Live(asked, running, loads)
        eventually(
            lambda: arrived(live), 30, lambda: "\n".join(each.output()[-2000:] for each in running.running.values())
        )
        yield live


def of_pod(engine: str) -> dict[str, str]:
    """Environment of a sidecar of this engine."""
    return {
        "AI_OTEL_SCRAPE_INTERVAL": "1s",
        "AI_OTEL_SCRAPE_TIMEOUT": "1s",
        "AI_OTEL_MODEL": "" if engine in ("vllm", "triton") else "a-model",  # the other pages do not name it
        "K8S_NAMESPACE_NAME": "models",
        "K8S_POD_NAME": f"{engine.replace('_', '-')}-0",
    }


def arrived(live: Live) -> bool:
    """Whether the pages have been read once more since the last load was over, and what they said is in Prometheus."""
    over_s = max(load.ended_s for load in live.loads.values()) + 1
    read = live.prometheus.query("timestamp(up)")
    return len(read) == len(live.loads) and all(each.value > over_s for each in read)


def engines_with(metric: str) -> set[str]:
    """Those whose page gives it, without a further flag, as `ai-otel collector explain` says."""
    return {
        engine
        for engine in servers.START
        for row in contract().engines[engine]["metrics"]
        if row["to"] == metric and not row.get("needs")
    }


def engines_of(found: list[Series]) -> set[str]:
    return {each.labels[ENGINE] for each in found}


# ---------------------------------------------------------------- what is there


@pytest.mark.parametrize("metric", ASKED)
def test_one_query_answers_for_exactly_the_engines_with_the_metric(live: Live, metric: str) -> None:
    assert engines_of(live.prometheus.query(ASKED[metric])) == engines_with(metric)


# ---------------------------------------------------------------- totals


def test_tokens_are_the_clients_to_the_last_one(live: Live) -> None:
    for engine in sorted(engines_with("ai_otel.usage.output_tokens")):
        load = live.loads[engine]
        found = live.of(engine, INPUT_TOKENS), live.of(engine, OUTPUT_TOKENS)
        print(f"{engine}: {found[0]:.0f} tokens in, {found[1]:.0f} out; the client counted the same")
        assert found == (load.total("prompt_tokens"), load.total("completion_tokens")), engine


def test_requests_are_the_clients_by_how_they_ended(live: Live) -> None:
    expected = {
        "vllm": {"": live.loads["vllm"].statuses()[200]},
        "triton": {"": live.loads["triton"].statuses()[200], "backend": live.loads["triton"].statuses()[500]},
        "bentoml": {"": live.loads["bentoml"].statuses()[200], "500": live.loads["bentoml"].statuses()[500]},
    }
    found: dict[str, dict[str, float]] = {}
    for each in live.prometheus.query(FINISHED):
        found.setdefault(each.labels[ENGINE], {})[each.labels.get("error_type", "")] = each.value
    print(found)
    assert found == expected
    assert all(count for ends in expected.values() for count in ends.values())
    refused = {(each.labels[ENGINE], each.labels["error_type"]): each.value for each in live.prometheus.query(REJECTED)}
    assert refused == {("bentoml", "400"): live.loads["bentoml"].statuses()[400]}


def test_what_vllm_s_api_refuses_reaches_no_metric_of_its_page(live: Live) -> None:
    """As docs/metrics.md says: an endpoint reports only what its server measures."""
    assert live.loads["vllm"].statuses()[400] == 3
    assert "vllm" not in engines_of(live.prometheus.query(REJECTED))


# ---------------------------------------------------------------- rates and quantiles


def test_tokens_per_second_are_the_clients(live: Live) -> None:
    """Near, because a rate is extrapolated to both ends of its window, up to a scrape interval at each."""
    for engine in sorted(engines_with("ai_otel.usage.output_tokens")):
        load = live.loads[engine]
        made = sum(sent.usage["completion_tokens"] for sent in load.counted if sent.usage)
        expected = made / (load.ended_s - load.began_s)
        found = live.moving(engine, TOKENS_PER_S)
        print(f"{engine}: {found:.1f} tokens/s, the client {expected:.1f}")
        assert found == pytest.approx(expected, rel=2.5 / (load.ended_s - load.began_s)), engine


@pytest.mark.parametrize("metric", [FIRST_TOKEN, DURATION])
def test_the_95th_percentile_is_the_clients_within_a_bucket(live: Live, metric: str) -> None:
    load = live.loads["vllm"]
    values = load.first_tokens_s() if metric == FIRST_TOKEN else load.durations_s()
    bounds = sorted(float(each.labels["le"]) for each in live.prometheus.query(f"sum by (le) ({metric}_bucket)"))
    low, high = quantile_bounds(0.95, values, bounds)
    before = max((bound for bound in bounds if bound < low), default=0.0)
    after = min(bound for bound in bounds if bound > high)
    found = live.moving("vllm", QUANTILE, metric=metric)
    print(f"p95 of {metric}: {found:.4f} s; the client's lies between {low} and {high} s")
    assert before <= found <= after


def test_the_time_that_requests_took_is_the_clients(live: Live) -> None:
    """Pages without a histogram have its sum, each in units of its own."""
    for engine in ("triton", "bentoml"):
        load = live.loads[engine]
        # Triton's is of what it served, BentoML's of everything.
        in_it = [sent for sent in load.client.sent if sent.status == 200 or engine == "bentoml"]
        found, seen = live.of(engine, TIME, ai_otel_phase="total"), sum(map(load.duration_s, in_it))
        print(f"{engine}: {found:.2f} s in all, the client {seen:.2f} s")
        assert 0.9 * seen <= found <= seen, engine
    timings = [sent.answer["timings"] for sent in live.loads["llama_cpp"].client.sent if sent.status == 200]
    # To an answer's prefill the server adds a moment that its counter leaves out: up to some milliseconds.
    for phase, said, near in (("prefill", "prompt_ms", 0.2), ("decode", "predicted_ms", 0.001)):
        reported = sum(each[said] for each in timings) / 1e3
        found = live.of("llama_cpp", TIME, ai_otel_phase=phase)
        print(f"llama_cpp: {phase} {found:.3f} s in all, its answers {reported:.3f} s")
        assert found == pytest.approx(reported, rel=near), phase


# ---------------------------------------------------------------- the dashboard


OVERVIEW = Dashboard(DIRECTORY / "overview.json")


def window_s(load: Load) -> int:
    """A window that holds the whole load, and asked two seconds after it, little else."""
    return round(load.ended_s - load.began_s) + 3


def shown(live: Live, engine: str, expression: str, split: str = "") -> list[Series]:
    """What the overview shows of an engine over the time in which its load ran."""
    load = live.loads[engine]
    chosen = {"__rate_interval": f"{window_s(load)}s", "split": split or OVERVIEW.splits[0]}
    return live.prometheus.query(OVERVIEW.filled(expression, engine=engine, **chosen), load.ended_s + 2)


def test_every_query_of_the_overview_has_an_answer_for_a_real_engine(live: Live) -> None:
    """Of every panel, under every split, and of every variable: a series of vLLM, with a number in it."""
    empty = []
    for asked in OVERVIEW.queries:
        for split in OVERVIEW.splits if "$split" in asked.expression else OVERVIEW.splits[:1]:
            series = shown(live, "vllm", asked.expression, split)
            if not series or any(math.isnan(each.value) for each in series):
                empty.append((asked.panel, asked.letter, split))
            assert engines_of(series) <= {"vllm"}, asked
    assert empty == []
    for name, (selector, label) in OVERVIEW.choices.items():
        offered = live.prometheus.label_values(label, OVERVIEW.filled(selector))
        assert offered or name == "cluster", name  # the cluster's name is not set here


@pytest.mark.parametrize("engine", ["vllm", "llama_cpp"])
def test_the_overview_shows_the_clients_numbers(live: Live, engine: str) -> None:
    load = live.loads[engine]
    for letter, kind in (("A", "prompt_tokens"), ("B", "completion_tokens")):
        (expression,) = [q.expression for q in OVERVIEW.queries if (q.panel, q.letter) == ("Tokens", letter)]
        (found,) = shown(live, engine, expression)
        made = sum(sent.usage[kind] for sent in load.counted if sent.usage) / window_s(load)
        print(f"{engine}: the overview shows {found.value:.1f} {kind} a second, the client counted {made:.1f}")
        # A rate is extrapolated to both ends of its window, by up to a scrape interval of a second at each, and beside
        # other tests a scrape may be a second late.
        assert found.value == pytest.approx(made, rel=4.0 / window_s(load))


# ---------------------------------------------------------------- the crowd


def test_who_waits_and_who_is_served_are_the_clients(live: Live) -> None:
    for engine, present in CROWD.items():
        slots = servers.SLOTS.get(engine, present)
        moment_s = live.loads[engine].moment_s
        if engine in engines_with("ai_otel.request.running"):
            assert live.of(engine, RUNNING, moment_s) == slots, engine
        if engine in engines_with("ai_otel.request.waiting"):
            assert live.of(engine, WAITING, moment_s) == present - slots, engine
            assert live.of(engine, WAITING) == 0, engine


def test_kv_use_is_the_tokens_that_the_client_had_seen(live: Live) -> None:
    """Between what it had half a second before and a second after, and a block more for each request that runs."""
    load = live.loads["vllm"]
    read_s = live.of("vllm", f"max by ({ENGINE}) (timestamp(ai_otel_kv_cache_utilization_ratio))", load.moment_s)
    least, most = load.held_tokens(read_s, read_s - 0.5), load.held_tokens(read_s, read_s + 1)
    share, tokens = live.of("vllm", KV_USE, load.moment_s), live.of("vllm", KV_TOKENS, load.moment_s)
    print(f"KV cache: {share:.1%} in use, {tokens:.0f} tokens; the client had seen {least} to {most}")
    assert 0.2 < share < 1
    assert least <= tokens <= most + (servers.SLOTS["vllm"] + 1) * servers.VLLM_BLOCK
    assert live.of("vllm", KV_USE) == 0


# ---------------------------------------------------------------- the way


def test_every_configuration_on_the_way_is_secure_and_by_the_rules(live: Live) -> None:
    broken = {name: list(violations(tree, local=False)) for name, tree in live.tiers.trees.items()}
    assert {name: sentences for name, sentences in broken.items() if sentences} == {}
    assert len(broken) >= 2 + len(servers.START)


LOSS = ("otelcol_exporter_send_failed", "otelcol_exporter_enqueue_failed", "otelcol_receiver_refused")


def test_nothing_was_lost_or_refused_on_the_way(live: Live) -> None:
    for name, each in live.tiers.running.items():
        counted = [line for line in each.own_metrics().splitlines() if line.startswith(LOSS)]
        assert [line for line in counted if not line.endswith(" 0")] == [], name
        assert [line for line in each.output().splitlines() if '"level":"error"' in line] == [], name


@pytest.mark.parametrize("tier", ["gateway", "gateway-stateful-0"])
def test_a_tier_takes_nothing_from_who_lacks_certificate_or_token(live: Live, tier: str) -> None:
    credentials = live.tiers.credentials
    ports = live.tiers.running[tier].ports
    by_grpc, by_http = (f"{tiers.NAME}:{ports[name]}" for name in ("grpc", "http"))

    def status_of(pair: Pair | None, token: str) -> tuple[str, str]:
        sender = Sender(credentials.receivers.certificate, pair, token)
        return sender.grpc(by_grpc), sender.http(by_http)

    assert status_of(credentials.sender, credentials.token) == ("OK", "200")
    assert status_of(None, credentials.token) == ("UNAVAILABLE", "TLSV13_ALERT_CERTIFICATE_REQUIRED")
    assert status_of(credentials.stranger, credentials.token) == ("UNAVAILABLE", "TLSV1_ALERT_UNKNOWN_CA")
    assert status_of(credentials.sender, "wrong") == ("UNAUTHENTICATED", "401")
    assert status_of(credentials.sender, "") == ("UNAUTHENTICATED", "401")
    assert plain(by_http) == "400"
