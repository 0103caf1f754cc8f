"""The contract says what the pinned conventions say, and the generated files say what the contract says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

import generate
from ai_otel import semconv
from generator import python_names, rules
from generator.compiled import render as compile_contract
from generator.model import BrokenContractError, Contract, load

SCHEMA = Path(__file__).parents[2] / "src/ai_otel/schema"
CONTRACT: dict[str, Any] = json.loads((SCHEMA / "contract.json").read_text(encoding="utf-8"))
LEVELS = {"req": "required", "cond": "conditionally_required", "rec": "recommended", "opt": "opt_in"}


def upstream(name: str) -> Any:
    return yaml.safe_load((SCHEMA / "upstream" / f"{name}.yaml").read_text(encoding="utf-8"))


GEN_AI, HARDWARE = upstream("gen-ai-newest"), upstream("hw-metrics")
CONVENTIONAL = [
    metric
    for metric in CONTRACT["metrics"]
    if not metric["name"].startswith("ai_otel.") and metric["name"] not in rules.SHIPPED
]


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load()


# ---------------------------------------------------------------- generated files


def test_generated_files_are_fresh(contract: Contract, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.check(contract) == 0, capsys.readouterr().err


def test_a_stale_file_is_named_with_the_command_that_mends_it(
    contract: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.write(contract, tmp_path)
    (tmp_path / "docs/metrics.md").write_text("old")
    capsys.readouterr()
    assert generate.check(contract, tmp_path) == 1
    assert capsys.readouterr().err == "docs/metrics.md is stale\nrun: python tools/generate.py\n"


def test_generated_files_say_so_and_how() -> None:
    for name in ("src/ai_otel/semconv.py", "docs/metrics.md"):
        assert re.search(r"Generated from .* by `python tools/generate.py`", first_line(name))
    assert "python tools/generate.py" in CONTRACT["generated"]


def first_line(name: str) -> str:
    return (Path(__file__).parents[2] / name).read_text(encoding="utf-8").partition("\n")[0]


def test_the_python_names_are_the_contract() -> None:
    """What the library writes with and what the oracle judges by cannot drift apart."""
    for expected, metric in zip(CONTRACT["metrics"], semconv.METRICS, strict=True):
        assert metric == getattr(semconv, expected["constant"])
        for field in ("name", "instrument", "unit", "value"):
            assert getattr(metric, field) == expected[field]
        assert metric.buckets is None or list(metric.buckets) == expected["buckets"]
        assert list(metric.attributes) == list(expected["attributes"])


# ---------------------------------------------------------------- against the conventions


def test_the_contract_keeps_its_own_rules(contract: Contract) -> None:
    assert rules.violations(contract) == []


@pytest.mark.parametrize("metric", CONVENTIONAL, ids=lambda metric: metric["name"])
def test_a_conventional_metric_is_exactly_the_conventions(metric: dict[str, Any]) -> None:
    """Only attributes of our own namespace may be added."""
    theirs = {**HARDWARE["metrics"], **GEN_AI["metrics"]}[metric["name"]]
    refined = HARDWARE["refinements"].get(f"metric.{metric['name'].replace('hw.', 'hw.gpu.', 1)}", {})
    assert [metric[field] for field in ("instrument", "unit", "value")] == [
        theirs[field] for field in ("instrument", "unit", "value")
    ]
    assert metric["buckets"] == theirs.get("buckets")
    own = {key: use["level"] for key, use in metric["attributes"].items() if not key.startswith("ai_otel.")}
    assert own == {key: LEVELS[level] for key, level in {**theirs, **refined}["attributes"].items()}


def test_the_request_span_has_the_conventional_attributes_and_no_content() -> None:
    (request,) = (span for span in CONTRACT["spans"] if span["role"] == "request")
    theirs = GEN_AI["spans"]["gen_ai.client.inference"]["attributes"]
    own = {key: use["level"] for key, use in request["attributes"].items()}
    assert {key: own.get(key) for key, level in theirs.items() if level != "opt"} == {
        key: LEVELS[level] for key, level in theirs.items() if level != "opt"
    }
    assert not own.keys() & {key for key, level in theirs.items() if level == "opt"}
    sampling = {key for key, use in request["attributes"].items() if use.get("sampling")}
    assert sampling == set(GEN_AI["spans"]["gen_ai.client.inference"]["sampling_relevant"])


def test_no_own_name_is_deprecated_or_in_a_foreign_namespace() -> None:
    known = {*GEN_AI["attributes"], *HARDWARE["attributes"], *upstream("core-attributes")["attributes"]}
    names = {*CONTRACT["attributes"], *(metric["name"] for metric in CONTRACT["metrics"])}
    assert not names & set(CONTRACT["deprecated"])
    foreign = {name for name in CONTRACT["attributes"] if not name.startswith("ai_otel.")}
    assert foreign <= known
    assert {"gen_ai.system", "gen_ai.client.token.usage", "gen_ai.usage.prompt_tokens"} <= set(CONTRACT["deprecated"])


def test_a_server_does_not_emit_the_callers_metrics() -> None:
    assert not [metric["name"] for metric in CONTRACT["metrics"] if metric["name"].startswith("gen_ai.client.")]


# ---------------------------------------------------------------- engines

ENGINES = list(CONTRACT["engines"])
PAGES = sorted((Path(__file__).parents[1] / "engines").glob("*/page*.prom"))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_native_metric_exists_or_is_an_older_name(engine: str) -> None:
    known = inventory(engine)
    for row in CONTRACT["engines"][engine]["metrics"]:
        assert row["native"] in known or "<" in row["versions"], row["native"]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_metric_of_the_engine_is_mapped_or_left_out_with_a_reason(engine: str) -> None:
    tree = CONTRACT["engines"][engine]
    patterns = [pattern for row in tree["unmapped"] for pattern in row["natives"] if row["why"]]
    mapped = {row["native"] for row in tree["metrics"]}
    assert [
        name
        for name in inventory(engine)
        if name not in mapped and not any(fnmatchcase(name, pattern) for pattern in patterns)
    ] == []


def name_of(page: Path) -> str:
    return f"{page.parent.name}-{page.stem}"


def origin_of(page: Path) -> str:
    """The first line of each page says which version it is of, and how it came to be."""
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# origin: "), page
    return first


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_recorded_page_says_what_it_is_of(page: Path) -> None:
    assert re.search(r"live|rendered|written|documentation", origin_of(page))
    assert re.search(r"20\d\d-\d\d-\d\d", origin_of(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_inventory_knows_every_name_on_a_recorded_page(page: Path) -> None:
    engine = page.parent.name
    ignored = re.compile("|".join([*CONTRACT["engines"][engine]["ignore"], r"(?!)"]))
    assert {name for name in families(page) if not ignored.fullmatch(name)} <= set(inventory(engine))


# Live pages of servers that were started with default flags.
BARE = [page for page in PAGES if page.parent.name in ("vllm", "llama_cpp") and page.stem == "page"]


@pytest.mark.parametrize("page", BARE, ids=name_of)
def test_what_needs_no_flag_is_on_the_page_of_a_server_with_none(page: Path) -> None:
    assert ", live" in origin_of(page)
    rows = CONTRACT["engines"][page.parent.name]["metrics"]
    expected = {row["native"] for row in rows if "needs" not in row and "versions" not in row}
    assert expected <= set(families(page))


def inventory(engine: str) -> list[str]:
    path = SCHEMA / "inventory" / CONTRACT["engines"][engine]["inventory"]["file"]
    rows = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return rows[1:]


def families(page: Path) -> Iterator[str]:
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("# TYPE "):
            yield line.split()[2]


# ---------------------------------------------------------------- the rules find what is wrong


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"unit": "ms"}, "no unit that we know"),
        ({"instrument": "summary"}, "no instrument summary"),
        ({"value": "float"}, "int or double"),
        ({"bucket_set": None}, "names its buckets"),
        ({"bucket_set": "tokens"}, "buckets differ from upstream"),
        ({"unit": "By"}, "unit is s upstream"),
        ({"uses": ()}, "is required upstream, here absent"),
        ({"name": "gen_ai.server.queue.duration"}, "new names start with ai_otel."),
        ({"name": "ai_otel.request_seconds"}, "do not belong into a name"),
        ({"name": "gen_ai.client.token.usage"}, "upstream deprecated it"),
        ({"brief": "no sentence"}, "the brief is one sentence"),
    ],
)
def test_a_wrong_metric_is_found(contract: Contract, change: dict[str, Any], sentence: str) -> None:
    wrong = replace(contract.metrics[0], **change)
    found = rules.violations(replace(contract, metrics=(wrong, *contract.metrics[1:])))
    assert any(sentence in each for each in found), found


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"native": "vllm:no_such_thing"}, "not in the inventory"),
        ({"to": "ai_otel.no_such_thing"}, "is no metric of the contract"),
        ({"to": "ai_otel.request.finished"}, "a native gauge cannot become the counter"),
        ({"set": {"ai_otel.cache.tier": "device"}}, "has no attribute ai_otel.cache.tier"),
        ({"labels": {"reasons": {"attribute": "ai_otel.engine.index"}}}, "has no label reasons"),
        ({"unless": "vllm:no_such_thing"}, "which is not mapped"),
        ({"to": "ai_otel.request.waiting"}, "2 source metrics land in the same series"),
        ({"to": "ai_otel.request.waiting", "set": {"ai_otel.wait.reason": "bored"}}, "bored is no value of"),
        ({"too": ""}, "there is no key too"),
        ({"combine": "sum"}, "`combine` and `requires` go together"),
        ({"requires": []}, "`combine` and `requires` go together"),
        ({"combine": "sum", "requires": ["vllm:num_requests_waiting"]}, "which is no part of"),
        ({"newest": ["pid"]}, "has no label pid"),
        ({"value": {"count_of_label": "engine", "at_most": "most"}}, "has no label most"),
        ({"meaning": "Of several samples the newest counts."}, "it has no `newest`"),
        ({"meaning": "0 is what a server without it says."}, "it has no `drop_values`"),
        ({"meaning": "Milliseconds."}, "it has no `factor: 0.001`"),
        ({"meaning": "Requests by POST only."}, "it has no `where`"),
    ],
)
def test_a_wrong_mapping_is_found(contract: Contract, row: dict[str, Any], sentence: str) -> None:
    engine = contract.engines["vllm"]
    index = next(i for i, each in enumerate(engine["metrics"]) if each["native"] == "vllm:num_requests_running")
    metrics = [*engine["metrics"]]
    metrics[index] = {**metrics[index], **row}
    wrong = replace(contract, engines={**contract.engines, "vllm": {**engine, "metrics": metrics}})
    found = rules.violations(wrong)
    assert any(sentence in each for each in found), found


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"none": ["-"]}, "`none` and `else` go together"),
        ({"else": "setting"}, "`none` and `else` go together"),
        ({"none": ["-"], "else": "setting"}, "is not in `configure`"),
        ({"none": ["-"], "else": "model_name"}, "is no earlier label of ai_otel.engine.index"),
    ],
)
def test_a_label_without_a_fallback_is_found(contract: Contract, target: dict[str, Any], sentence: str) -> None:
    engine = contract.engines["vllm"]
    labels = {**engine["labels"], "engine": {**engine["labels"]["engine"], **target}}
    wrong = replace(contract, engines={**contract.engines, "vllm": {**engine, "labels": labels}})
    found = rules.violations(wrong)
    assert any(sentence in each for each in found), found


def test_a_source_metric_without_a_row_is_found(contract: Contract) -> None:
    engine = contract.engines["vllm"]
    wrong = {**contract.engines, "vllm": {**engine, "metrics": engine["metrics"][1:]}}
    found = rules.violations(replace(contract, engines=wrong))
    assert found == ["vllm: vllm:e2e_request_latency_seconds: neither mapped nor left out with a reason."]


# ---------------------------------------------------------------- one line changes a name


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SCHEMA, tmp_path / "schema"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_rename_is_one_line(schema: Path) -> None:
    """Names follow everywhere, constants stay, and a name that upstream does not have is refused."""
    edit(
        schema / "renames.yaml",
        "metrics: []\n    attributes: []",
        "metrics: [{from: ai_otel.request.waiting, to: gen_ai.server.request.waiting}]\n"
        "    attributes: [{from: ai_otel.wait.reason, to: gen_ai.wait.reason}]",
    )
    after = load(schema)
    python, compiled = python_names.render(after), json.loads(compile_contract(after))
    assert 'AI_OTEL_REQUEST_WAITING: Final = Metric(\n    name="gen_ai.server.request.waiting",' in python
    assert 'AI_OTEL_WAIT_REASON: Final = "gen_ai.wait.reason"' in python
    (row,) = (row for row in compiled["engines"]["llama_cpp"]["metrics"] if row["native"].endswith("deferred"))
    assert (row["to"], row["set"]) == ("gen_ai.server.request.waiting", {"gen_ai.wait.reason": "capacity"})
    assert rules.violations(after) == [
        "gen_ai.server.request.waiting: neither ai-otel's nor in the pinned conventions; new names start with ai_otel.",
        "gen_ai.wait.reason: our own attributes start with ai_otel.",
    ]


def test_a_reference_to_nowhere_names_its_place(schema: Path) -> None:
    edit(schema / "health.yaml", "ref: ai_otel.drop.reason", "ref: ai_otel.drop.raeson")
    with pytest.raises(
        BrokenContractError, match=r"record\.dropped: the attribute ai_otel\.drop\.raeson is defined nowhere"
    ):
        load(schema)


def test_a_metric_that_an_attribute_shadows_gets_a_suffix(schema: Path) -> None:
    edit(schema / "attributes.yaml", "- id: ai_otel.hook.name", "- id: ai_otel.hook.errors")
    edit(schema / "health.yaml", "ref: ai_otel.hook.name", "ref: ai_otel.hook.errors")
    edit(schema / "health.yaml", "ref: ai_otel.hook.name", "ref: ai_otel.hook.errors")
    after = load(schema)
    assert "AI_OTEL_HOOK_ERRORS_METRIC: Final = Metric(" in python_names.render(after)
    remark = "ai_otel.hook.errors: an attribute has its constant's name, so the metric is AI_OTEL_HOOK_ERRORS_METRIC."
    assert remark in rules.remarks(after)
