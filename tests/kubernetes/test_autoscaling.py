"""The autoscaling examples ask for what there is, and see the numbers of the servers' own metrics endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import HOME, Tree
from harness.telemetry import fleet as stage
from harness.telemetry.prometheus import quantile_bounds

ENGINES = Path(__file__).parents[1] / "engines"
AUTOSCALING = HOME / "autoscaling"

needs_prometheus = [pytest.mark.requires(part="collector"), pytest.mark.requires(part="prometheus")]


def read(name: str) -> Tree:
    tree: Tree = yaml.safe_load((AUTOSCALING / name).read_text())
    return tree


def keda_queries() -> dict[str, str]:
    """Of each trigger, about the pods of our test's vLLM."""
    triggers = read("keda.yaml")["spec"]["triggers"]
    return {each["name"]: each["metadata"]["query"].replace("chat-.+", "vllm-.+") for each in triggers}


def adapter_queries() -> dict[str, str]:
    """What the adapter would ask Prometheus for those pods."""
    rules = read("prometheus-adapter.yaml")["rules"]
    queries = {}
    for rule in (*rules["custom"], *rules["external"]):
        is_pods = "k8s_pod_name" in rule["resources"]["overrides"]
        matchers = 'k8s_namespace_name="models"' + (', k8s_pod_name=~"vllm-0"' if is_pods else "")
        query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        query = query.replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "k8s_pod_name")
        queries[rule["name"]["as"]] = query
    return queries


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stage.Fleet]:
    """A page of vLLM that moves, read by a real Collector, in a real Prometheus."""
    with stage.running("scraped", tmp_path_factory.mktemp("fleet")) as running:
        yield running


WAITING, KV_CACHE, FIRST_TOKEN = (
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:time_to_first_token_seconds",
)


class TestOnRealNumbers:
    """Each query, asked of Prometheus while the server's page says what is known."""

    pytestmark = needs_prometheus

    def value(self, fleet: stage.Fleet, query: str) -> float:
        (series,) = fleet.prometheus.query(query, fleet.moving_until)
        return series.value

    @pytest.mark.parametrize("query", [keda_queries()["waiting"], adapter_queries()["ai_otel_request_waiting"]])
    def test_as_many_wait_as_the_page_says(self, query: str, fleet: stage.Fleet) -> None:
        assert self.value(fleet, query) == fleet.vllm.value(f"{WAITING}{{") == 5

    @pytest.mark.parametrize(
        "query", [keda_queries()["kv-cache"], adapter_queries()["ai_otel_kv_cache_utilization_ratio"]]
    )
    def test_the_cache_is_as_full_as_the_page_says(self, query: str, fleet: stage.Fleet) -> None:
        assert self.value(fleet, query) == fleet.vllm.value(f"{KV_CACHE}{{") == 0.42

    @pytest.mark.parametrize(
        "query", [keda_queries()["first-token"], adapter_queries()["ai_otel_first_token_p95_seconds"]]
    )
    def test_the_first_token_comes_when_it_came(self, query: str, fleet: stage.Fleet) -> None:
        low, high = quantile_bounds(0.95, stage.FIRST, fleet.vllm.bounds(FIRST_TOKEN))
        assert low <= self.value(fleet, query) <= high

    def test_without_requests_nothing_is_asked_for(self, fleet: stage.Fleet) -> None:
        unmatched = keda_queries()["first-token"].replace("vllm-.+", "unmatched-.+")
        assert self.value(fleet, unmatched) == 0


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    names = [each[each["type"].lower()]["metric"]["name"] for each in read("hpa.yaml")["spec"]["metrics"]]
    rules = read("prometheus-adapter.yaml")["rules"]
    assert [rule["name"]["as"] for rule in (*rules["custom"], *rules["external"])] == names


def test_both_ways_scale_by_the_same_numbers() -> None:
    metrics = read("hpa.yaml")["spec"]["metrics"]
    targets = [each[each["type"].lower()]["target"] for each in metrics]
    hpa = [float(target.get("averageValue", target.get("value")).replace("800m", "0.8")) for target in targets]
    assert hpa == [float(each["metadata"]["threshold"]) for each in read("keda.yaml")["spec"]["triggers"]]


# ---------------------------------------------------------------- the schedulers' names

WAITING_OF, RUNNING_OF, USED_OF = "ai_otel.request.waiting", "ai_otel.request.running", "ai_otel.kv_cache.utilization"
# Gateway API Inference Extension 1.6, model server protocol. ai-otel's mapping has more where a server has
# queues that the protocol leaves out: the one in front of Triton's backend, and SGLang's for a grammar or a
# peer (`ai_otel.wait.reason`).
PROTOCOL = [
    ("vllm", WAITING_OF, ["vllm:num_requests_waiting{"]),
    ("vllm", RUNNING_OF, ["vllm:num_requests_running{"]),
    ("vllm", USED_OF, ["vllm:kv_cache_usage_perc{"]),
    ("sglang", WAITING_OF, ["sglang:num_queue_reqs{"]),
    ("sglang", RUNNING_OF, ["sglang:num_running_reqs{"]),
    ("sglang", USED_OF, ["sglang:token_usage{"]),
    (
        "triton",
        WAITING_OF,
        [
            'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting"',
            'nv_inference_pending_request_count{model="tensorrt_llm"',
        ],
    ),
    ("triton", RUNNING_OF, ['nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled"']),
    ("triton", USED_OF, ['nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"']),
    ("tensorrt_llm", WAITING_OF, ["trtllm_num_requests_waiting{"]),
    ("tensorrt_llm", RUNNING_OF, ["trtllm_num_requests_running{"]),
    ("tensorrt_llm", USED_OF, ["trtllm_kv_cache_utilization{"]),
]


def native(page: Path, name: str) -> float:
    """Over all data-parallel ranks; of a rank's several processes and priorities the one that has the total."""
    ranks: dict[str, float] = {}
    for line in page.read_text().splitlines():
        if line.startswith(name):
            rank = "".join(re.findall(r'dp_rank="(\d+)"', line))
            ranks[rank] = max(ranks.get(rank, 0.0), float(line.rpartition(" ")[2]))
    return sum(ranks.values())


def normalised(golden: Path, name: str) -> float:
    """What the Collector made of that page."""
    lines = [line for line in golden.read_text().splitlines() if line.startswith(f"{name} ")]
    if "triton" in golden.parts:
        lines = [line for line in lines if "gen_ai.request.model=tensorrt_llm" in line]
    if "sglang" in golden.parts:
        lines = [line for line in lines if "ai_otel.wait.reason" not in line]
    return sum(float(re.sub(r".*\} ", "", line)) for line in lines if "ai_otel.cache.tier=host" not in line)


@pytest.mark.parametrize(("engine", "name", "natives"), PROTOCOL)
def test_our_numbers_are_those_of_the_inference_extension(engine: str, name: str, natives: list[str]) -> None:
    """The same numbers, on a recorded endpoint and in what is committed as the Collector's result of it."""
    pages = sorted((ENGINES / engine).glob("page*.prom"))
    page = next(page for page in pages if natives[0] in page.read_text())
    golden = page.with_name(f"{page.stem.replace('page', 'expected')}.txt")
    assert normalised(golden, name) == pytest.approx(sum(native(page, each) for each in natives))
