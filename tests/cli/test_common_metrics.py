"""Which common metrics there are: by the contract, and on recorded responses of real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_otel.contract import load
from ai_otel.doctor.common_metrics import check_contract, check_endpoint
from ai_otel.doctor.finding import Finding, Level

PAGES = Path(__file__).parents[1] / "engines"
VLLM = PAGES / "vllm/page.prom"


def of_page(answering, page: bytes, status: int = 200) -> dict[str, Finding]:
    with answering(status, body=page) as url:
        return {each.subject.removeprefix(url): each for each in check_endpoint(f"{url}/metrics")}


def test_every_flag_names_the_metrics_that_it_turns_on() -> None:
    found = {each.subject: each for each in check_contract(frozenset({"vllm"}))}
    assert "ai_otel.spec_decode.drafts" in found["vllm --speculative-config"].says
    assert found["vllm --speculative-config"].level is Level.NOTE
    assert found["vllm"].level is Level.OK


def test_a_source_metric_that_cannot_be_used_has_a_line_with_the_reason(answering) -> None:
    """A proxy that removes TYPE lines leaves histograms in pieces."""
    page = b"\n".join(line for line in VLLM.read_bytes().splitlines() if not line.startswith(b"# TYPE")) + b"\n"
    found = of_page(answering, page)["/metrics skipped"]
    assert found.level is Level.NOTE
    assert "vllm:e2e_request_latency_seconds is a histogram, and the endpoint declares no type" in found.says
    assert found.details["skipped"]["vllm:e2e_request_latency_seconds"] == "type"
    assert "ai-otel collector explain vllm" in found.next_step
    assert "/metrics skipped" not in of_page(answering, VLLM.read_bytes())


def test_a_flag_of_the_running_server_is_reported_as_given() -> None:
    found = {each.subject: each for each in check_contract(frozenset({"vllm"}), frozenset({"--enable-lora"}))}
    assert found["vllm --enable-lora"].level is Level.OK
    assert found["vllm --speculative-config"].level is Level.NOTE


def test_every_common_metric_is_present_flagged_or_absent() -> None:
    present, flagged, absent = set[str](), set[str](), set[str]()
    for each in check_contract(frozenset({"vllm"})):
        if "library" in each.details:
            present = {*each.details["library"], *each.details["page"]}
        elif "flag" in each.details:
            flagged |= set(each.details["metrics"])
        else:
            absent |= set(each.details["metrics"])
    assert set(load().common) == (present & set(load().common)) | flagged | absent
    assert not present & absent


def test_a_live_endpoint_of_vllm_is_recognised_and_checked(answering) -> None:
    found = of_page(answering, VLLM.read_bytes())
    assert found["/metrics"].details["engine"] == "vllm"
    assert [name for name in load().common if name not in found] == []
    assert found["gen_ai.server.time_to_first_token"].says == "vllm:time_to_first_token_seconds"
    assert found["ai_otel.spec_decode.drafts"].says == "off without --speculative-config"
    assert found["ai_otel.request.waiting"].says == "vllm:num_requests_waiting_by_reason"
    assert found["ai_otel.request.time"].says == "vLLM does not expose it"
    assert {each.level for each in found.values()} == {Level.OK, Level.NOTE}


def test_a_declared_metric_without_samples_has_no_value_yet(answering) -> None:
    declared = (
        b"# TYPE vllm:num_preemptions counter\n# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0.5\n"
    )
    found = of_page(answering, declared)
    assert found["ai_otel.request.preempted"].details["state"] == "no value yet"
    assert found["ai_otel.kv_cache.utilization"].details["state"] == "present"


def test_a_live_endpoint_of_llama_cpp_is_recognised(answering) -> None:
    found = of_page(answering, (PAGES / "llama_cpp/page.prom").read_bytes())
    assert found["/metrics"].details["engine"] == "llama_cpp"
    both = "llamacpp:prompt_tokens_total + llamacpp:prompt_tokens_cached_total"
    assert found["ai_otel.usage.input_tokens"].says == both


def test_an_endpoint_without_an_engine_says_why_it_may_be_empty(answering) -> None:
    (found,) = of_page(answering, b"# TYPE other gauge\nother 1\n").values()
    assert found.level is Level.WRONG
    assert "--disable-log-stats" in found.next_step


@pytest.mark.parametrize("status", [404, 501])
def test_an_endpoint_that_needs_a_flag_names_it(answering, status: int) -> None:
    (found,) = of_page(answering, b"", status).values()
    assert found.says == f"answers {status} {'Not Found' if status == 404 else 'Not Implemented'}"
    assert "Without --metrics the page answers 501" in found.next_step


def test_a_response_in_another_format_is_reported(answering, closed_port) -> None:
    (found,) = of_page(answering, b"<html>{{{").values()
    assert found.level is Level.WRONG
    (refused,) = check_endpoint(f"{closed_port}/metrics")
    assert refused.says == "cannot be read: connection refused"
