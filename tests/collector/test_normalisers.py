"""Every normaliser on the real Collector: a recorded endpoint in, the common metrics out, as committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_otel.contract import load
from harness.collector.golden import compare, metric_lines, page_names
from harness.collector.pages import ManyPages, Page, prometheus_page
from harness.collector.process import Pages, Tree, attributes_of, composed, exports, running
from harness.polling import eventually
from harness.telemetry.otlp_json import send

pytestmark = pytest.mark.requires(part="collector")

ENGINES = Path(__file__).parents[1] / "engines"
CONTRACT = load()
NAMES = sorted(CONTRACT.engines)
METRICS = {metric.name: metric for metric in CONTRACT.metrics}
OTLP = [name for name in NAMES if CONTRACT.engines[name].get("source") == "otlp"]
PAGES = [(name, page) for name in NAMES for page in sorted((ENGINES / name).glob("page*.prom"))]


def out_of(engine: str, page: str, directory: Path, **more: str) -> tuple[list[Tree], str]:
    """Two scrapes' exports, and the page that Prometheus would read."""
    tree = composed(
        role="sidecar",
        engines=(engine,),
        features=("local",),
        without=("persistence",),
        backends=("file", "prometheus"),
    )
    path = CONTRACT.engines[engine]["page"]["path"]
    with Pages({path: page}) as pages:
        environment = {
            "AI_OTEL_ENGINE_TARGET": pages.address,
            "AI_OTEL_SCRAPE_INTERVAL": "300ms",
            "AI_OTEL_SCRAPE_TIMEOUT": "300ms",
            **more,
        }
        with running(tree, directory, environment) as collector:
            eventually(lambda: len(exports(directory / "out.jsonl")) >= 2, 20, lambda: collector.output()[-4000:])
            return exports(directory / "out.jsonl"), prometheus_page(collector)


class AllPages:
    """Every recorded endpoint read by one Collector with every normaliser, twice; so none changes another's metrics."""

    def __init__(self, directory: Path) -> None:
        recorded = {f"{engine}-{page.stem}": Page(engine, page.read_text()) for engine, page in PAGES}
        self._pages = ManyPages(recorded, directory, backends=("file", "prometheus"))
        self.exported = self._pages.exported

    def prometheus(self, one: str) -> str:
        """The part of the page for Prometheus that is of this page."""
        everything = self._pages.prometheus.splitlines()
        samples = [line for line in everything if f'instance="{one}"' in line]
        named = {line.partition("{")[0] for line in samples}
        families = {name.removesuffix(end) for name in named for end in ("", "_bucket", "_sum", "_count", "_total")}
        types = [line for line in everything if line.startswith("# TYPE ") and line.split()[2] in families]
        return "\n".join([*types, *samples])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> AllPages:
    return AllPages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize(("engine", "page"), PAGES, ids=[f"{name}-{page.stem}" for name, page in PAGES])
def test_a_recorded_page_becomes_what_is_committed(engine: str, page: Path, everything: AllPages) -> None:
    """As OTLP, point by point, and the names as Prometheus sees them."""
    one = f"{engine}-{page.stem}"
    names_seen = page_names(everything.prometheus(one))
    lines = [*metric_lines(everything.exported(one)), "", "# As Prometheus sees them:", *names_seen]
    compare(lines, page.with_name(page.stem.replace("page", "expected") + ".txt"))


@pytest.mark.parametrize("engine", OTLP)
def test_recorded_otlp_becomes_what_is_committed(engine: str, tmp_path: Path) -> None:
    tree = composed(
        role="sidecar", engines=(engine,), features=("local",), without=("persistence",), backends=("file",)
    )
    with running(tree, tmp_path) as collector:
        send(collector.ports["http"], "metrics", json.loads((ENGINES / engine / "page.json").read_text()))
        eventually(lambda: exports(tmp_path / "out.jsonl"), 20, lambda: collector.output()[-4000:])
    compare(metric_lines(exports(tmp_path / "out.jsonl")), ENGINES / engine / "expected.txt")


# ---------------------------------------------------------------- the goldens themselves, against the contract


def expected(engine: str) -> list[list[str]]:
    """The points of all goldens of an engine, split into name, type, unit, and the rest."""
    files = sorted((ENGINES / engine).glob("expected*.txt"))
    points: list[list[str]] = []
    for file in files:
        head = file.read_text().partition("\n\n#")[0]
        points += [line.split(" ", 3) for line in head.splitlines() if not line.startswith("resource ")]
    return points


@pytest.mark.parametrize("engine", NAMES)
def test_every_mapped_metric_is_in_a_golden_as_the_contract_has_it(engine: str) -> None:
    """Name, instrument, unit and attributes; so no row of a mapping stands there unproven."""
    found = {}
    for name, *rest in expected(engine):
        if name == "up":
            continue
        metric = METRICS[name]
        instrument, unit, labels = rest
        assert (instrument, unit) == (metric.instrument, metric.unit), name
        keys = {pair.partition("=")[0] for pair in labels[1:].partition("}")[0].split(", ") if pair}
        assert keys <= set(metric.keys), name
        required = {use.key for use in metric.uses if use.level == "required"}
        assert required <= keys, (name, required - keys)
        found[name] = metric
    rows = CONTRACT.engines[engine]["metrics"]
    current = {row["to"] for row in rows if "versions" not in row}
    assert current - found.keys() == set()


@pytest.mark.parametrize("engine", [name for name in NAMES if name not in OTLP])
def test_prometheus_names_are_the_contracts_and_the_dashboards(engine: str) -> None:
    known = {metric.prometheus for metric in METRICS.values()} | {"target_info", "up"}
    for file in (ENGINES / engine).glob("expected*.txt"):
        seen = {line.split(" ")[0] for line in file.read_text().partition("# As Prometheus sees them:")[2].split("\n")}
        assert seen - {""} <= known, file.name


# ---------------------------------------------------------------- rules that hold for every page


VLLM = (ENGINES / "vllm/page.prom").read_text() if (ENGINES / "vllm/page.prom").exists() else ""


def names(exported: list[Tree]) -> set[str]:
    return {line.split(" ")[0] for line in metric_lines(exported)} - {"resource"}


def test_where_the_library_runs_the_page_gives_only_what_it_does_not_emit(tmp_path: Path) -> None:
    exported, _ = out_of("vllm", VLLM, tmp_path, AI_OTEL_LIBRARY="true")
    emitted = {row["metric"] for row in CONTRACT.engines["vllm"]["library"]}
    assert names(exported) & emitted == set()
    assert {"ai_otel.token.interval", "ai_otel.batch.tokens"} <= names(exported)


def test_a_page_of_an_unknown_engine_stays_native_and_is_seen(tmp_path: Path) -> None:
    exported, _ = out_of("vllm", VLLM, tmp_path, AI_OTEL_ENGINE="vlm")
    assert "vllm:generation_tokens_total" in names(exported)
    assert not {name for name in names(exported) if name.startswith("gen_ai.")}


def test_dual_emit_keeps_the_native_metrics_beside(tmp_path: Path) -> None:
    tree = composed(
        role="sidecar",
        engines=("vllm",),
        features=("local", "dual_emit"),
        without=("persistence",),
        backends=("file",),
    )
    with Pages({"/metrics": VLLM}) as pages, running(tree, tmp_path, {"AI_OTEL_ENGINE_TARGET": pages.address}):
        eventually(lambda: exports(tmp_path / "out.jsonl"), 20)
    found = names(exports(tmp_path / "out.jsonl"))
    assert {"vllm:generation_tokens_total", "ai_otel.usage.output_tokens"} <= found
    assert not {name for name in found if name.endswith("_created") or name.startswith("ai_otel.page")}


def test_operation_and_model_can_be_set(tmp_path: Path) -> None:
    exported, _ = out_of("vllm", VLLM, tmp_path, AI_OTEL_OPERATION="text_completion")
    lines = [line for line in metric_lines(exported) if line.startswith("gen_ai.server.request.duration")]
    assert lines
    assert all("gen_ai.operation.name=text_completion" in line for line in lines)


def test_a_pod_is_identified_by_its_names_not_by_loopback(tmp_path: Path) -> None:
    pod = {"K8S_NAMESPACE_NAME": "llm", "K8S_POD_NAME": "chat-7f9", "K8S_CONTAINER_NAME": "server"}
    exported, _ = out_of("vllm", VLLM, tmp_path, **pod, OTEL_SERVICE_NAME="chat")
    resources = [attributes_of(each["resource"]) for export in exported for each in export["resourceMetrics"]]
    assert {found["service.instance.id"] for found in resources} == {"llm.chat-7f9.server"}
    assert {found["service.name"] for found in resources} == {"chat"}
    assert not [key for found in resources for key in found if key.startswith("ai_otel.page")]
