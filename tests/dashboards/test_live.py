"""
Every query of the overview, asked of a real Prometheus that real Collectors and our own library fill.

The pages grow by the same at every tick, so that each rate, share and quantile is known beforehand.
"""

from __future__ import annotations

import math

import pytest

from harness.telemetry.dashboards import DIRECTORY, Dashboard
from harness.telemetry.fleet import (
    ENDINGS,
    LIBRARY,
    LIBRARY_DURATION,
    LIBRARY_FIRST,
    SAMPLES,
    TRACE,
    WINDOW_S,
    Fleet,
)
from harness.telemetry.moving_endpoints import TICKS_PER_S
from harness.telemetry.prometheus import Series, quantile_bounds

pytestmark = [pytest.mark.requires(part="collector"), pytest.mark.requires(part="prometheus")]

OVERVIEW = Dashboard(DIRECTORY / "overview.json")
PAGES = {"instance": "127[.].*"}  # what is read from pages, without the library's server
INSIDE = {"instance": LIBRARY}


def query(panel: str, letter: str = "A", **chosen: str) -> str:
    """A query of the overview, filled in."""
    (found,) = [each for each in OVERVIEW.queries if (each.panel, each.letter) == (panel, letter)]
    return OVERVIEW.filled(
        found.expression, **{"__rate_interval": f"{WINDOW_S}s", "split": OVERVIEW.splits[0], **chosen}
    )


def shown(fleet: Fleet, panel: str, letter: str = "A", **chosen: str) -> list[Series]:
    return fleet.ask(query(panel, letter, **chosen))


def of(series: list[Series], engine: str, **labels: str) -> float:
    """The one series of an engine."""
    wanted = {"gen_ai_provider_name": engine, **labels}
    found = [each for each in series if wanted.items() <= each.labels.items()]
    assert len(found) == 1, (engine, labels, series)
    return found[0].value


# ---------------------------------------------------------------- everything that is asked


def test_every_query_of_every_panel_has_an_answer_for_vllm(fleet) -> None:
    """Under every split: with the engine chosen there is a series of it, with a number in it, and of nothing else."""
    empty = []
    for each in OVERVIEW.queries:
        for split in OVERVIEW.splits if "$split" in each.expression else OVERVIEW.splits[:1]:
            series = shown(fleet, each.panel, each.letter, split=split, engine="vllm")
            assert {one.labels["gen_ai_provider_name"] for one in series} <= {"vllm"}, each
            assert not any(math.isnan(value) for one in series for value in one.values), each
            if not series or (
                "k8s_pod_name" in split and "vllm-0" not in {one.labels["k8s_pod_name"] for one in series}
            ):
                empty.append((each.panel, each.letter, split))
    assert empty == []


def test_every_variable_offers_what_is_there(fleet) -> None:
    offered = {
        name: fleet.prometheus.label_values(label, OVERVIEW.filled(selector))
        for name, (selector, label) in OVERVIEW.choices.items()
    }
    assert offered.pop("cluster") == []  # no cluster is set; All finds series without one
    assert offered.pop("instance")
    assert offered == {"namespace": ["models"], "engine": ["llama_cpp", "vllm"], "model": ["small", "tiny"]}
    selector, label = OVERVIEW.choices["model"]
    assert fleet.prometheus.label_values(label, OVERVIEW.filled(selector, engine="llama_cpp")) == ["small"]


def test_an_engine_without_a_metric_has_no_data_and_not_a_zero(fleet) -> None:
    """llama.cpp's page has neither latencies nor outcomes, caches neither looked up nor measured."""
    latencies = {"First token, p95", "Duration, p95", "Queue"}
    outcomes, caches = {"Requests", "Errors"}, {"KV cache", "Prefix cache hits"}
    assert {panel for panel in latencies | outcomes | caches if shown(fleet, panel, engine="llama_cpp")} == set()
    assert of(shown(fleet, "Waiting"), "llama_cpp") == 4


# ---------------------------------------------------------------- the numbers of the pages


def test_totals_are_the_pages_to_the_last_token(fleet) -> None:
    """What the panels take rates of, when nothing moves any more."""
    vllm, llama = fleet.vllm, fleet.llama
    of_device = 'vllm:prompt_tokens_cached_by_source_total{engine="0",model_name="tiny",source="device"'
    totals = {
        ("ai_otel_usage_input_tokens_total", "vllm"): vllm.value("vllm:prompt_tokens_total"),
        ("ai_otel_usage_output_tokens_total", "vllm"): vllm.value("vllm:generation_tokens_total"),
        ("ai_otel_usage_cache_read_input_tokens_total", "vllm"): vllm.value(of_device),
        ("ai_otel_usage_input_tokens_total", "llama_cpp"): llama.value("llamacpp:prompt_tokens_total ")
        + llama.value("llamacpp:prompt_tokens_cached_total "),
        ("ai_otel_usage_output_tokens_total", "llama_cpp"): llama.value("llamacpp:tokens_predicted_total "),
        ("gen_ai_server_request_duration_seconds_count", "vllm"): vllm.value("vllm:e2e_request_latency_seconds_count"),
        ("ai_otel_request_finished_total", "vllm"): 1 + 10 * vllm.ticks,
        ("ai_otel_request_rejected_total", "vllm"): 2 * vllm.ticks,
    }
    asked = " ".join(each.expression for each in OVERVIEW.queries)
    for (series, engine), expected in totals.items():
        assert f"rate({series}{{" in asked
        selector = f'{series}{{gen_ai_provider_name="{engine}", service_instance_id=~"{PAGES["instance"]}"}}'
        assert sum(each.value for each in fleet.prometheus.query(selector)) == expected, (series, engine)


def test_rates_are_what_the_pages_add_in_a_second(fleet) -> None:
    # Where Prometheus scrapes the Collector, a value is up to one read of the page old.
    near = 0.03 if fleet.way == "pushed" else 0.2
    rates = {
        ("Tokens", "A", "vllm"): 100,
        ("Tokens", "B", "vllm"): 40,
        ("Tokens", "A", "llama_cpp"): 25,
        ("Tokens", "B", "llama_cpp"): 10,
        ("Input tokens", "A", "vllm"): 100,
        ("Input tokens", "B", "vllm"): 25,
        ("Input tokens", "B", "llama_cpp"): 5,
        ("Output tokens", "A", "vllm"): 40,
        ("Requests", "A", "vllm"): 12,
        ("Requests by outcome", "A", "vllm"): 8,
        ("Requests by outcome", "B", "vllm"): 1,
        ("Requests by outcome", "C", "vllm"): 3,
        ("Preemptions", "A", "vllm"): 1,
    }
    for (panel, letter, engine), in_a_tick in rates.items():
        found = of(shown(fleet, panel, letter, **PAGES), engine)
        assert found == pytest.approx(in_a_tick * TICKS_PER_S, rel=near), (panel, letter, engine)
    finished, refused = shown(fleet, "Finished by reason", **PAGES), shown(fleet, "Refused by reason", **PAGES)
    stop = of(finished, "vllm", ai_otel_finish_reason="stop")
    assert stop == pytest.approx(6 * TICKS_PER_S, rel=near)
    aborted = of(finished, "vllm", ai_otel_finish_reason="error", error_type="cancelled")
    assert aborted == pytest.approx(TICKS_PER_S, rel=near)
    assert of(refused, "vllm", error_type="queue_full") == pytest.approx(2 * TICKS_PER_S, rel=near)


def test_gauges_are_the_pages(fleet) -> None:
    assert of(shown(fleet, "Running"), "vllm") == 7
    assert of(shown(fleet, "Running"), "llama_cpp") == 2
    assert of(shown(fleet, "Waiting"), "vllm") == 3 + 2
    assert of(shown(fleet, "Waiting by reason"), "vllm", ai_otel_wait_reason="capacity") == 3
    assert of(shown(fleet, "Waiting by reason"), "vllm", ai_otel_wait_reason="deferred") == 2
    assert of(shown(fleet, "KV cache"), "vllm") == 0.42
    assert of(shown(fleet, "KV cache, fullest"), "vllm", ai_otel_cache_tier="device") == 0.42


def test_cache_tokens_are_the_utilization_times_the_capacity(fleet) -> None:
    """The page gives the capacity no model; chosen or split by model it must not vanish."""
    blocks, tokens_each = 8192, 128
    assert f'num_gpu_blocks="{blocks}"' in fleet.vllm.text()
    for split in OVERVIEW.splits:
        chosen = {"split": split, "model": "tiny"}
        capacity = of(shown(fleet, "KV cache, tokens", "B", **chosen), "vllm", ai_otel_cache_tier="device")
        assert capacity == blocks * tokens_each
        held = of(shown(fleet, "KV cache, tokens", "A", **chosen), "vllm", ai_otel_cache_tier="device")
        assert held == pytest.approx(0.42 * capacity)


def test_shares_are_ratios_of_sums(fleet) -> None:
    near = 1e-6 if fleet.way == "pushed" else 0.05
    assert of(shown(fleet, "Errors", **PAGES), "vllm") == pytest.approx((1 + 2) / 12, rel=near)
    assert of(shown(fleet, "Error share", **PAGES), "vllm") == pytest.approx((1 + 2) / 12, rel=near)
    assert of(shown(fleet, "Input from a cache", **PAGES), "vllm") == pytest.approx(25 / 100, rel=near)
    assert of(shown(fleet, "Input from a cache", **PAGES), "llama_cpp") == pytest.approx(5 / 25, rel=near)
    hits = of(shown(fleet, "Prefix cache hits", **PAGES), "vllm", ai_otel_cache_tier="device")
    assert hits == pytest.approx(30 / 100, rel=near)


LATENCIES = {
    "Time to first token": "vllm:time_to_first_token_seconds",
    "Time per output token": "vllm:request_time_per_output_token_seconds",
    "Duration": "vllm:e2e_request_latency_seconds",
    "Queue": "vllm:request_queue_time_seconds",
    "Prefill": "vllm:request_prefill_time_seconds",
    "Decode": "vllm:request_decode_time_seconds",
}


@pytest.mark.parametrize("panel", LATENCIES)
def test_quantiles_lie_in_the_bucket_of_the_true_one(fleet, panel) -> None:
    native = LATENCIES[panel]
    for letter, share in (("A", 0.5), ("B", 0.95), ("C", 0.99)):
        low, high = quantile_bounds(share, SAMPLES[native], fleet.vllm.bounds(native))
        found = of(shown(fleet, panel, letter, **PAGES), "vllm")
        assert low < found <= high, (panel, share, low, found, high)
        tile = {"Time to first token": "First token, p95", "Time per output token": "Per token, p95"}.get(panel)
        if letter == "B" and tile:
            assert of(shown(fleet, tile, **PAGES), "vllm") == found


# ---------------------------------------------------------------- the library's, and both together


# The library sends OTLP: nothing of it is scraped.
pushed = pytest.mark.parametrize("fleet", ["pushed"], indirect=True)


@pushed
def test_the_library_s_requests_are_each_counted_once_with_how_they_ended(fleet) -> None:
    times = {outcome.value: count for outcome, (count, _) in ENDINGS.items()}
    assert of(shown(fleet, "Requests", **INSIDE), "vllm") == pytest.approx(sum(times.values()), rel=0.05)
    assert of(shown(fleet, "Requests by outcome", "A", **INSIDE), "vllm") == pytest.approx(times["finished"], rel=0.05)
    assert of(shown(fleet, "Requests by outcome", "B", **INSIDE), "vllm") == pytest.approx(times["cancelled"], rel=0.05)
    bad = times["failed"] + times["rejected"]
    assert of(shown(fleet, "Requests by outcome", "C", **INSIDE), "vllm") == pytest.approx(bad, rel=0.05)
    assert of(shown(fleet, "Errors", **INSIDE), "vllm") == pytest.approx(bad / sum(times.values()), rel=1e-3)


@pushed
def test_servers_that_are_measured_in_different_ways_add_up(fleet) -> None:
    apart = [of(shown(fleet, "Requests", **where), "vllm") for where in (PAGES, INSIDE)]
    assert of(shown(fleet, "Requests"), "vllm") == pytest.approx(sum(apart))
    assert all(apart)


@pushed
def test_bounds_of_library_and_page_are_never_mixed(fleet) -> None:
    """Both are vLLM with the same model, and each quantile is that of one of them."""
    for panel, inside in (("First token, p95", LIBRARY_FIRST), ("Duration, p95", LIBRARY_DURATION)):
        together = sorted(each.value for each in shown(fleet, panel))
        apart = sorted(of(shown(fleet, panel, **where), "vllm") for where in (PAGES, INSIDE))
        assert together == pytest.approx(apart)
        assert apart[0] == pytest.approx(inside, rel=1), panel


@pushed
def test_a_latency_leads_to_a_trace(fleet) -> None:
    panels = {each.panel for each in OVERVIEW.queries if each.exemplars}
    assert panels == set(LATENCIES)
    for panel in ("Time to first token", "Duration", "Decode"):
        found = fleet.prometheus.exemplars(query(panel, "B"), fleet.moving_until - 10, fleet.moving_until)
        assert {each["labels"]["trace_id"] for each in found} == {f"{TRACE:032x}"}, panel
