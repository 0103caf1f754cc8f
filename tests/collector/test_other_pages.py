"""Pages that differ from the recorded ones as users' servers and exporters do: each value is right, or absent."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from ai_otel.contract import load, page
from harness.collector.pages import ManyPages, Page

pytestmark = pytest.mark.requires(part="collector")

ENGINES = Path(__file__).parents[1] / "engines"
NOW = time.time()


def without(text: str, *starts: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(starts))


def lora(*samples: tuple[str, float], most: int = 4) -> Page:
    """Names of adapters, and how many seconds ago they were set."""
    lines = [
        f'vllm:lora_requests_info{{max_lora="{most}",running_lora_adapters="{names}",waiting_lora_adapters="{names}"}}'
        f" {NOW - ago}"
        for names, ago in samples
    ]
    return Page("vllm", "\n".join(["# TYPE vllm:lora_requests_info gauge", *lines, ""]))


def cache(**labels: str) -> Page:
    said = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return Page("vllm", f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{said}}} 1.0\n")


def dcgm(*lines: str, kind: str = "gauge", uuid: str = "GPU-1") -> Page:
    """Fields of one GPU, as a counter file of the user's own has them."""
    text = []
    for name, _, value in (line.partition(" ") for line in lines):
        text += [f"# HELP {name} x", f"# TYPE {name} {kind}", f'{name}{{gpu="0",UUID="{uuid}"}} {value}']
    return Page("dcgm", "\n".join([*text, ""]))


def amd(*functions: str) -> Page:
    """Two virtual functions of one GPU; each has an index, and no UUID."""
    lines = ["# TYPE gpu_used_vram gauge", "# TYPE gpu_energy_consumed gauge"]
    for index, uuid in enumerate(functions):
        labels = f'gpu_id="{index}",gpu_uuid="{uuid}",gpu_partition_id="4294967295"'
        lines += [
            f"gpu_used_vram{{{labels}}} {100 + index}",
            f"gpu_energy_consumed{{{labels}}} {1000000 * (7 + index)}",
        ]
    return Page("amd_device_metrics", "\n".join([*lines, ""]))


def latency(*rest: str) -> Page:
    """A histogram of vLLM: three requests, two of them above a second."""
    name = "vllm:e2e_request_latency_seconds"
    lines = [
        f"# TYPE {name} histogram",
        f'{name}_bucket{{le="1.0"}} 1',
        f'{name}_bucket{{le="+Inf"}} 3',
        f"{name}_count 3",
    ]
    return Page("vllm", "\n".join([*lines, *(f"{name}{each}" for each in rest), ""]))


def summary(total: str) -> Page:
    name = "nv_inference_request_summary_us"
    labels = '{model="m",version="1"}'
    return Page("triton", f"# TYPE {name} summary\n{name}_sum{labels} {total}\n{name}_count{labels} 3\n")


def ranks() -> Page:
    """SGLang's DP attention, two data-parallel ranks of two GPUs each, with metrics of all schedulers."""
    name = "sglang:prefill_effective_tokens_total"
    lines = [
        f'{name}{{mode="{mode}",dp_rank="{rank // 2}",tp_rank="{rank}",pp_rank="0"}} {tokens}'
        for mode, tokens in (("input", 100), ("device_hit", 40), ("host_hit", 5))
        for rank in range(4)
    ]
    return Page("sglang", "\n".join([f"# TYPE {name} counter", *lines, ""]))


def partitions(*healthy: int) -> Page:
    lines = (f'gpu_health{{gpu_id="{i}",gpu_uuid="u",gpu_partition_id="{i}"}} {one}' for i, one in enumerate(healthy))
    return Page("amd_device_metrics", "\n".join(["# TYPE gpu_health gauge", *lines, ""]))


MEMORY = ("DCGM_FI_DEV_FB_USED 1000", "DCGM_FI_DEV_FB_FREE 2000", "DCGM_FI_DEV_FB_RESERVED 10")
UNDEFINED = (
    "# TYPE trtllm_prompt_tokens_total counter\n"
    'trtllm_prompt_tokens_total{model_name="undefined",engine_type="pytorch"} 5\n'
)
NEGATIVE = '# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{model_name="m",engine="0"} -7680\n'
NO_TYPE = '# TYPE nv_trt_llm_request_metrics gauge\nnv_trt_llm_request_metrics{model="m",request_type="N/A"} 3\n'
HISTOGRAM = (
    "# TYPE vllm:num_requests_running histogram\n"
    'vllm:num_requests_running_bucket{le="+Inf"} 3\n'
    "vllm:num_requests_running_sum 3\nvllm:num_requests_running_count 3\n"
)
LARGEST = "".join(
    f'{name}{{gpu_id="0",gpu_partition_id="0"}} {largest}\n'
    for name, largest in (
        ("gpu_package_power", 65535),
        ("gpu_junction_temperature", 4294967295),
        ("gpu_gfx_activity", 65535),
        ("gpu_energy_consumed", 18446744073709551615),
    )
)
OWN = (
    '# TYPE up gauge\nup{of="another"} 0\n'
    '{"row/c8/vllm:prompt_tokens_total",model_name="m"} 5\n'
    '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m"} 3\n'
)
VLLM = (ENGINES / "vllm/page.prom").read_text()
MIB = 1048576
ZEROS = "00000000-0000-0000-0000-000000000000"

PAGES = {
    "hybrid": cache(block_size="4", kv_cache_size_tokens="150912", num_gpu_blocks="9271"),
    "no-attention": cache(block_size="4", kv_cache_size_tokens="None", num_gpu_blocks="9271"),
    "older": cache(block_size="16", num_gpu_blocks="1000", mamba_block_size="None"),
    "older-hybrid": cache(block_size="16", num_gpu_blocks="1000", mamba_block_size="512"),
    "lora-waits": lora(("a,b", 0), most=1),
    "lora-all": lora(("", 100.1), ("a,b,c", 100)),
    "lora-fewer": lora(("a,b,c", 100), ("a", 99.9)),
    "lora-none": lora(("a,b,c", 100), ("a", 99.9), ("", 99.8998)),
    "lora-summed": lora(("a,b,c", -NOW), ("a", 1)),
    "dcgm-gauge": dcgm("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION 5000", *MEMORY),
    "dcgm-counter": dcgm("DCGM_FI_DEV_GPU_UTIL 50", *MEMORY, kind="counter"),
    "dcgm-used": dcgm(*MEMORY[:1]),
    "dcgm-no-reserved": dcgm(*MEMORY[:2]),
    "dcgm-one-of-two": Page("dcgm", dcgm(*MEMORY).text + dcgm(*MEMORY[:2], uuid="GPU-2").text.replace("# ", "## ")),
    "amd-virtual": amd(ZEROS, ZEROS),
    "undefined": Page("tensorrt_llm", UNDEFINED),
    "undefined-set": Page("tensorrt_llm", UNDEFINED, {"ai_otel_model": "meta-llama/Llama-3.1-8B"}),
    "named-set": Page("tensorrt_llm", UNDEFINED.replace("undefined", "m"), {"ai_otel_model": "other"}),
    "negative": Page("vllm", NEGATIVE),
    "dcgm-nameless": dcgm("DCGM_FI_DEV_GPU_UTIL 50", uuid="N/A"),
    "no-type-of-request": Page("triton", NO_TYPE),
    "histogram": Page("vllm", HISTOGRAM),
    "sum": latency("_sum 7"),
    "no-sum": latency(),
    "negative-sum": latency("_sum -7"),
    "summary": summary("4000000"),
    "summary-of-nothing": summary("NaN"),
    "too-long": cache(kv_cache_size_tokens="9" * 400),
    "too-long-product": cache(num_gpu_blocks="9" * 200, block_size="9" * 200),
    "partitions": partitions(1, 1, 1, 1),
    "ill-partition": partitions(1, 1, 0, 1),
    "ranks": ranks(),
    "negative-state": Page(
        "triton",
        "# TYPE nv_inference_pending_request_count gauge\n"
        'nv_inference_pending_request_count{model="a"} -2\nnv_inference_pending_request_count{model="b"} 2\n',
    ),
    "no-sensor": dcgm("DCGM_FI_DEV_MEMORY_TEMP 0", "DCGM_FI_DEV_GPU_TEMP 41"),
    "no-sensor-renamed": dcgm("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS 0"),
    "amd-largest": Page("amd_device_metrics", LARGEST),
    "own-up": Page("vllm", OWN),
    "untyped": Page("vllm", without(VLLM, "# TYPE", "# HELP")),
    "typed": Page("vllm", VLLM),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> ManyPages:
    return ManyPages(PAGES, tmp_path_factory.mktemp("pages"))


def values(pages: ManyPages, one: str, metric: str) -> list[float]:
    """The values of a metric, of all its series."""
    return sorted(float(line.rpartition(" ")[2]) for line in pages.lines(one) if line.startswith(f"{metric} "))


@pytest.mark.fault(
    "engines",
    "the metrics endpoint of vLLM describes the KV cache of a hybrid model",
    "the capacity is its number of tokens, and absent where the version gives only blocks",
)
@pytest.mark.parametrize(
    ("one", "tokens"),
    [("hybrid", [150912]), ("no-attention", []), ("older", [16000]), ("older-hybrid", [])],
)
def test_the_capacity_of_a_kv_cache_is_in_tokens(pages: ManyPages, one: str, tokens: list[float]) -> None:
    assert values(pages, one, "ai_otel.kv_cache.capacity") == tokens


@pytest.mark.fault(
    "engines",
    "vLLM lists a LoRA adapter as running while its requests wait for a slot",
    "the number of running adapters is at most the number of slots",
)
@pytest.mark.fault(
    "engines",
    "a vLLM server runs fewer LoRA adapters than before, and its endpoint still lists every earlier set",
    "the newest set counts; if several API servers share the endpoint the value is absent",
)
@pytest.mark.parametrize(
    ("one", "running"),
    [("lora-waits", [1]), ("lora-all", [3]), ("lora-fewer", [1]), ("lora-none", [0]), ("lora-summed", [])],
)
def test_the_newest_set_of_adapters_is_the_present_one(pages: ManyPages, one: str, running: list[float]) -> None:
    assert values(pages, one, "ai_otel.lora.adapter.running") == running


@pytest.mark.fault(
    "gpu",
    "a DCGM counter file gives a field another type (energy as a gauge)",
    "the field is read by its name, and its metric has the usual type",
)
def test_a_number_is_read_by_its_name(pages: ManyPages) -> None:
    assert [line for line in pages.lines("dcgm-gauge") if line.startswith("hw.energy")] == [
        "hw.energy counter J {hw.id=GPU-1, hw.type=gpu} 5"
    ]
    assert values(pages, "dcgm-counter", "hw.gpu.utilization") == [0.5]
    assert {line.split(" ")[1] for line in pages.lines("dcgm-counter")} <= {"gauge", "updowncounter"}


@pytest.mark.fault(
    "gpu",
    "a DCGM counter file has used memory without free or reserved memory",
    "the limit of the memory is absent, of each GPU where a part is missing",
)
def test_a_sum_needs_all_of_its_parts(pages: ManyPages) -> None:
    limit = "hw.gpu.memory.limit"
    assert values(pages, "dcgm-gauge", limit) == [3010 * MIB]
    assert values(pages, "dcgm-used", limit) == values(pages, "dcgm-no-reserved", limit) == []
    assert values(pages, "dcgm-used", "hw.gpu.memory.usage") == [1000 * MIB]
    assert values(pages, "dcgm-one-of-two", limit) == [3010 * MIB]
    assert values(pages, "dcgm-one-of-two", "hw.gpu.memory.usage") == [1000 * MIB] * 2


@pytest.mark.fault(
    "gpu",
    "DCGM reports 0 °C for the memory of a GPU without that sensor (L4, GeForce)",
    "the temperature of the memory is absent; that of the GPU stays",
)
def test_a_sensor_that_does_not_exist_has_no_temperature(pages: ManyPages) -> None:
    assert values(pages, "no-sensor", "hw.temperature") == [41]
    assert values(pages, "no-sensor-renamed", "hw.temperature") == []


@pytest.mark.fault(
    "gpu",
    "AMD's exporter passes on the largest number of 16, 32 or 64 bits, AMD SMI's \"no value\"",
    "power, temperature, utilization and energy are absent",
)
def test_the_largest_number_is_no_reading(pages: ManyPages) -> None:
    assert pages.lines("amd-largest") == []


@pytest.mark.fault(
    "gpu",
    "AMD's exporter reports virtual functions, with a UUID of zeros and no partition",
    "each function is a device of its own, known by its index",
)
def test_virtual_functions_are_separate_devices(pages: ManyPages) -> None:
    assert values(pages, "amd-virtual", "hw.gpu.memory.usage") == [100 * MIB, 101 * MIB]
    assert values(pages, "amd-virtual", "hw.energy") == [7, 8]


@pytest.mark.fault(
    "engines",
    "TensorRT-LLM calls its model 'undefined'",
    "the model is that of AI_OTEL_MODEL, or absent",
)
def test_a_model_without_a_name_is_that_of_the_setting(pages: ManyPages) -> None:
    found = {one: " ".join(pages.lines(one)) for one in ("undefined", "undefined-set", "named-set")}
    assert "gen_ai.request.model" not in found["undefined"]
    assert "gen_ai.request.model=meta-llama/Llama-3.1-8B}" in found["undefined-set"]
    assert "gen_ai.request.model=m}" in found["named-set"]


@pytest.mark.fault(
    "engines",
    "a metrics endpoint has a counter below zero",
    "the value is dropped: it does not become a sum that only grows",
)
@pytest.mark.fault(
    "engines",
    "a gauge of a metrics endpoint that counts requests is below zero",
    "the point is dropped and named as skipped; those of other models stay",
)
def test_what_is_counted_is_not_negative(pages: ManyPages) -> None:
    assert values(pages, "negative", "ai_otel.usage.input_tokens") == []
    assert values(pages, "negative-state", "ai_otel.request.waiting") == [2]


@pytest.mark.fault(
    "engines",
    "a histogram on a metrics endpoint lacks its sum, or has one below zero",
    "the histogram is absent and named as skipped: its mean is never 0",
)
@pytest.mark.fault(
    "engines",
    "the sum of a summary on a metrics endpoint is NaN",
    "the counter is absent and named as skipped",
)
def test_a_sum_that_cannot_be_is_no_value(pages: ManyPages) -> None:
    duration, of_phases = "gen_ai.server.request.duration ", "ai_otel.request.time "
    assert [line for line in pages.lines("sum") if line.startswith(duration) and "count=3 sum=7" in line]
    assert not [line for one in ("no-sum", "negative-sum") for line in pages.lines(one) if line.startswith(duration)]
    assert values(pages, "summary", of_phases.strip()) == [4]
    assert not [line for line in pages.lines("summary-of-nothing") if line.startswith(of_phases)]


@pytest.mark.fault(
    "engines",
    "a label of a metrics endpoint has a number of hundreds of digits",
    "the metric that is read from it is absent: it is neither 1 nor infinite",
)
def test_a_number_that_no_integer_holds_is_no_number(pages: ManyPages) -> None:
    assert values(pages, "too-long", "ai_otel.kv_cache.capacity") == []
    assert values(pages, "too-long-product", "ai_otel.kv_cache.capacity") == []


@pytest.mark.fault(
    "engines",
    "every scheduler of SGLang reports the same tokens (`--enable-metrics-for-all-schedulers`)",
    "the tokens of a data-parallel rank count once, the ranks' beside each other",
)
def test_what_ranks_repeat_counts_once(pages: ManyPages) -> None:
    assert values(pages, "ranks", "ai_otel.prefix_cache.queried_tokens") == [145, 145]
    assert values(pages, "ranks", "ai_otel.prefix_cache.hit_tokens") == [5, 5, 40, 40]


@pytest.mark.fault(
    "gpu",
    "AMD's exporter reports the health of each partition of one GPU",
    "the state is 1 where all are healthy, else 0, never their number",
)
def test_a_state_is_one_or_zero(pages: ManyPages) -> None:
    assert values(pages, "partitions", "hw.status") == [1]
    assert values(pages, "ill-partition", "hw.status") == [0]


@pytest.mark.fault(
    "collector",
    "a metrics endpoint has a metric `up` of its own, or the name of a normaliser's copy",
    "it is dropped: `up` says whether the scrape worked, and no value is made of it",
)
def test_a_page_does_not_speak_for_the_collector(pages: ManyPages) -> None:
    running = "ai_otel.request.running updowncounter {request} {gen_ai.provider.name=vllm, gen_ai.request.model=m} 3"
    assert pages.lines("own-up") == [running]
    assert "another" not in str(pages.exported("own-up"))


@pytest.mark.fault(
    "engines",
    "a proxy removes the TYPE lines from a metrics endpoint",
    "counters and gauges are read by their names; histograms arrive in pieces and are absent",
)
def test_a_page_without_types_keeps_its_counters(pages: ManyPages) -> None:
    typed, untyped = set(pages.lines("typed")), set(pages.lines("untyped"))
    assert {line for line in typed if line.split(" ")[1] == "counter"} <= untyped
    assert {line for line in typed - untyped if line.split(" ")[1] != "histogram"} == set()


def skipped(pages: ManyPages, one: str) -> dict[str, str]:
    """What the Collector reports: source metric → reason."""
    lines = [line for line in pages.lines(one) if line.startswith("ai_otel.source.skipped gauge {metric} ")]
    pairs = (re.search(r"{ai_otel.skip.reason=(\w+), ai_otel.source.metric=(\S+)} 1$", line) for line in lines)
    return {found[2]: found[1] for found in pairs if found}


UNUSED = {
    "typed": {},
    "dcgm-used": {"DCGM_FI_DEV_FB_USED": "incomplete"},
    "dcgm-nameless": {"DCGM_FI_DEV_GPU_UTIL": "attribute"},
    "negative": {"vllm:prompt_tokens_total": "value"},
    "negative-state": {"nv_inference_pending_request_count": "value"},
    "no-sum": {"vllm:e2e_request_latency_seconds": "value"},
    "negative-sum": {"vllm:e2e_request_latency_seconds": "value"},
    "summary-of-nothing": {"nv_inference_request_summary_us": "value"},
    "too-long": {"vllm:cache_config_info": "value"},
    "older-hybrid": {"vllm:cache_config_info": "value"},
    "no-type-of-request": {"nv_trt_llm_request_metrics": "attribute"},
    "histogram": {"vllm:num_requests_running": "type"},
    "lora-summed": {"vllm:lora_requests_info": "value"},
    "untyped": {
        row["native"]: "type"
        for row in load().engines["vllm"]["metrics"]
        if f"\n{row['native']}_bucket" in VLLM and not row.get("part")
    },
}


@pytest.mark.fault(
    "collector",
    "a metrics endpoint has a source metric that the mapping knows and cannot use",
    "`ai_otel.source.skipped` and `ai-otel collector explain` name it and the reason",
)
@pytest.mark.parametrize("one", UNUSED)
def test_what_is_not_used_is_named_with_the_reason(pages: ManyPages, one: str) -> None:
    assert len(UNUSED["untyped"]) > 5
    assert skipped(pages, one) == UNUSED[one]


@pytest.mark.parametrize("one", PAGES)
def test_the_commands_find_what_the_collector_reports(pages: ManyPages, one: str) -> None:
    found = page.skipped(load(), PAGES[one].engine, page.read_page(PAGES[one].text))
    assert {each.native: each.reason for each in found} == skipped(pages, one)
