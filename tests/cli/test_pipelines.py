"""How fragments are merged into configurations: the rules of `merge`, and what `compose` refuses and leaves out."""

from __future__ import annotations

import pytest
import yaml

from ai_otel.collector import fragments
from ai_otel.collector.compose import Selection, compose, write
from ai_otel.collector.fragments import FragmentError
from ai_otel.collector.merge import ORDER, merge, rank
from ai_otel.collector.rules import violations

# ---------------------------------------------------------------- merge


def test_maps_are_merged_and_values_replaced() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "d": 4}}) == {"a": {"b": 3, "c": 2, "d": 4}}


def test_neither_side_is_changed() -> None:
    tree, fragment = {"a": {"b": [1]}}, {"a": {"c": {"d": 1}}}
    merge(tree, fragment)["a"]["c"]["d"] = 2
    assert (tree, fragment) == ({"a": {"b": [1]}}, {"a": {"c": {"d": 1}}})


def test_lists_of_components_are_joined_and_others_replaced() -> None:
    tree = {"service": {"extensions": ["a", "b"]}, "receivers": {"x": {"targets": ["1"]}}}
    fragment = {"service": {"extensions": ["b", "c", "-a"]}, "receivers": {"x": {"targets": ["2"]}}}
    assert merge(tree, fragment) == {"service": {"extensions": ["b", "c"]}, "receivers": {"x": {"targets": ["2"]}}}


def test_a_star_stands_for_what_is_there_and_null_takes_out() -> None:
    tree = {"exporters": {"otlp_grpc/a": {"tls": {"x": 1}}, "debug": {}}}
    fragment = {"exporters": {"otlp_grpc/*": {"tls": None, "auth": "t"}, "kafka*": {"auth": "t"}}}
    assert merge(tree, fragment) == {"exporters": {"otlp_grpc/a": {"auth": "t"}, "debug": {}}}


def test_processors_have_one_order_regardless_of_merge_order() -> None:
    tree = {"service": {"pipelines": {"traces": {"processors": ["tail_sampling", "redaction/values"]}}}}
    fragment = {"service": {"pipelines": {"*": {"processors": ["k8s_attributes", "memory_limiter"]}}}}
    joined = merge(tree, fragment)["service"]["pipelines"]["traces"]["processors"]
    assert joined == ["memory_limiter", "k8s_attributes", "redaction/values", "tail_sampling"]


def test_engines_stand_between_the_beginning_and_the_end_of_a_page() -> None:
    ranks = [rank(name) for name in ("transform/page_begin", "transform/vllm", "filter/page", "transform/page_end")]
    assert ranks == sorted(ranks)
    assert ORDER[0] == "memory_limiter"


# ---------------------------------------------------------------- compose


@pytest.mark.fault(
    "configuration",
    "`ai-otel collector render --without` names a feature that does not exist",
    "it fails and lists the features: it does not leave the misspelt one in",
)
def test_a_feature_to_leave_out_must_exist() -> None:
    with pytest.raises(FragmentError, match="there is no feature persistance; there are .*persistence"):
        compose(Selection("sidecar", without=("persistance",)))


def test_an_unknown_fragment_is_reported_with_the_known_ones() -> None:
    with pytest.raises(FragmentError, match="there is no engine vlm; there are .*vllm"):
        compose(Selection("sidecar", engines=("vlm",)))


def test_a_feature_without_a_place_is_refused() -> None:
    with pytest.raises(FragmentError, match="dual_emit has no place"):
        compose(Selection("cluster", features=("dual_emit",)))


def test_a_role_without_a_scrape_takes_no_engine() -> None:
    with pytest.raises(FragmentError, match="takes no engine"):
        compose(Selection("gateway", engines=("vllm",)))


def test_signals_without_a_backend_are_omitted_and_reported() -> None:
    composed = compose(Selection("gateway_stateful", backends=("prometheus",)))
    assert set(composed.tree["service"]["pipelines"]) == {"metrics/otlp"}
    assert "connectors" not in composed.tree
    assert composed.remarks == ["left out, because no backend here takes it: traces/otlp, traces/kept, logs/otlp"]


def test_a_backend_may_be_for_some_signals_only() -> None:
    tree = compose(Selection("gateway_stateful", backends=("otlp:traces", "prometheus_otlp"))).tree
    exporters = {name: pipeline["exporters"] for name, pipeline in tree["service"]["pipelines"].items()}
    assert exporters == {
        "traces/otlp": ["forward/traces"],
        "traces/kept": ["otlp_grpc/backend"],
        "metrics/otlp": ["otlp_http/prometheus"],
    }


def test_the_first_tier_sends_to_the_second_and_takes_no_backend() -> None:
    with pytest.raises(FragmentError, match="takes nothing of what this role sends"):
        compose(Selection("gateway", backends=("otlp",)))


@pytest.mark.parametrize(
    ("backend", "message"), [("otlp:spans", "there is no signal spans"), ("prometheus:traces", "takes no traces")]
)
def test_an_unknown_or_unsupported_signal_is_reported(backend: str, message: str) -> None:
    with pytest.raises(FragmentError, match=message):
        compose(Selection("gateway_stateful", backends=(backend,)))


@pytest.mark.parametrize("engine", fragments.names("engines"))
def test_the_sidecar_of_an_engine_scrapes_its_usual_endpoint(engine: str) -> None:
    from ai_otel.contract import load

    page = load().engines[engine]["page"]
    tree = compose(Selection("sidecar", engines=(engine,))).tree
    if not page["path"]:
        assert f"transform/{engine}" in tree["service"]["pipelines"]["metrics/otlp"]["processors"]
        return
    for job in tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]:
        (static,) = job["static_configs"]
        assert static["labels"]["__tmp_ai_otel_path"] == f"${{env:AI_OTEL_ENGINE_PATH:-{page['path']}}}"
        assert static["targets"] == [f"${{env:AI_OTEL_ENGINE_TARGET:-127.0.0.1:{page['port']}}}"]


def test_annotations_override_the_usual_endpoint_of_an_engine() -> None:
    job, protected = compose(Selection("agent")).tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]
    assert protected["relabel_configs"] == job["relabel_configs"]
    addresses = [rule for rule in job["relabel_configs"] if rule.get("target_label") == "__address__"]
    assert addresses[0]["replacement"] == "$${1}:8000"
    assert "annotation_ai_otel_io_port" in addresses[-2]["source_labels"][-1]
    assert addresses[-1]["replacement"] == "[$${1}]:$${2}"
    assert {"source_labels": addresses[1]["source_labels"], "regex": "(.+);triton"}.items() <= next(
        rule for rule in addresses if rule["regex"] == "(.+);triton"
    ).items()


@pytest.mark.parametrize("role", fragments.ROLES)
def test_memory_comes_first_and_nothing_is_insecure(role: str) -> None:
    assert list(violations(compose(Selection(role)).tree, local=False)) == []


def test_what_is_written_says_how_it_was_made_and_what_it_reads() -> None:
    selection = Selection("sidecar", ("vllm",), ("local",), backends=("file",))
    text = write(compose(selection), selection)
    assert text.startswith(
        "# Generated by `ai-otel collector render --role sidecar --engine vllm --feature local --backend"
    )
    assert "# AI_OTEL_FILE   its path" in text
    assert "# LOCAL: no TLS" in text
    assert yaml.safe_load(text) == compose(selection).tree


# ---------------------------------------------------------------- rules


def test_the_rules_find_what_is_wrong() -> None:
    tree = {
        "receivers": {"otlp": {}, "unused": {}},
        "exporters": {"otlp_grpc/x": {"tls": {"insecure": True}}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["otlp_grpc/x"]}}
        },
    }
    found = "\n".join(violations(tree, local=False))
    assert "memory_limiter must be its first" in found
    assert "batch processor loses" in found
    assert "receivers: unused is used by no pipeline" in found
    assert "without a sending_queue" in found
    assert "exporters.otlp_grpc/x.tls.insecure: insecure" in found
    assert "insecure;" not in "\n".join(violations(tree, local=True))
    assert list(violations({}, local=False)) == [
        "there is no pipeline under service: this is no complete configuration"
    ]
