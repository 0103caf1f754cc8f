"""What `ai-otel doctor` says of web frameworks and servers, and of a server without an adapter."""

from __future__ import annotations

import pytest

from ai_otel.doctor import http
from ai_otel.doctor.examination import examine
from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.http import check_http


def without_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "package_folders", lambda _package: [])


def test_each_hook_of_an_installed_framework_is_checked() -> None:
    found = list(check_http(on=True, engines=True, provider="custom"))
    targets = {finding.details["target"]: finding.level for finding in found}
    assert targets["starlette.applications:Starlette.__call__"] is Level.OK
    assert targets["uvicorn.server:Server.startup"] is Level.OK
    assert set(targets.values()) == {Level.OK}


@pytest.mark.fault(
    "configuration",
    "a model server is built on FastAPI and on an engine that ai-otel has no adapter for",
    "`ai-otel doctor` lists what is seen of its requests and what is not",
)
def test_a_server_without_an_adapter_is_seen_over_http() -> None:
    first, *_ = check_http(on=True, engines=False, provider="mine")
    assert (first.subject, first.level) == ("engines", Level.NOTE)
    assert "as mine" in first.says
    assert "token counts of OpenAI-shaped answers" in first.says
    assert "queue, prefill and decode" in first.details["not_seen"]
    assert "ai_otel.inference()" in first.next_step


def levels(found: list[Finding]) -> list[tuple[str, Level]]:
    return [(finding.subject, finding.level) for finding in found]


def test_without_engine_and_framework_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    without_frameworks(monkeypatch)
    found = list(check_http(on=True, engines=False, provider="custom"))
    assert levels(found) == [("engines", Level.WRONG), ("HTTP", Level.NOTE)]
    assert "no web framework" in found[0].says
    assert "ai_otel.asgi(app)" in found[1].next_step


def test_an_engine_without_a_framework_is_observed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_frameworks(monkeypatch)
    assert levels(list(check_http(on=True, engines=True, provider="custom"))) == [("HTTP", Level.NOTE)]


def test_with_the_view_off_only_adapters_see_anything() -> None:
    assert list(check_http(on=False, engines=True, provider="custom")) == []
    (found,) = check_http(on=False, engines=False, provider="custom")
    assert found.level is Level.WRONG
    assert "AI_OTEL_EDGE" in found.says


@pytest.mark.fault(
    "configuration",
    "AI_OTEL_ENGINES names engines that are not installed, and not the server without an adapter",
    "`ai-otel doctor` says that no request is seen, and which name to add",
)
def test_a_server_that_is_not_among_the_engines_to_observe_is_not_seen() -> None:
    first, *hooks = check_http(on=True, engines=False, provider="mine", wanted=False)
    assert first.level is Level.WRONG
    assert "AI_OTEL_ENGINES does not name mine" in first.says
    assert first.next_step == "Add mine to AI_OTEL_ENGINES, or unset it."
    assert first.details["seen"] == []
    assert hooks


@pytest.mark.parametrize(("engines", "level"), [("vllm", Level.WRONG), ("vllm, mine", Level.NOTE), ("", Level.NOTE)])
def test_the_engines_to_observe_are_read_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, engines: str, level: Level
) -> None:
    monkeypatch.setattr("ai_otel.doctor.engines.installed_engines", lambda _engines: [])
    monkeypatch.setenv("AI_OTEL_PROVIDER", "mine")
    monkeypatch.setenv("AI_OTEL_ENGINES", engines)
    first = next(examine())
    assert (first.subject, first.level) == ("engines", level)
