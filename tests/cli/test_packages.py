"""Conflicts are found in real metadata: each test puts distributions before the installed ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.packages import check_packages, unmet

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a distribution in front: its metadata alone."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, version: str, *requires: str, entry_points: str = "") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]))
        (folder / "entry_points.txt").write_text(entry_points)

    return write


def found(**otel: str) -> dict[str, Finding]:
    return {each.subject: each for each in check_packages({f"OTEL_{name}": value for name, value in otel.items()})}


def test_this_environment_has_no_conflict() -> None:
    assert [each.subject for each in found().values() if each.level is Level.WRONG] == []


def test_an_sdk_below_our_floor_is_wrong_and_names_the_command(put: Put) -> None:
    put("opentelemetry-sdk", "1.20.0")
    put("ai-otel", "9.9", "opentelemetry-sdk<2,>=1.31", "wrapt<3,>=1.14", "something>=1; extra == 'x'")
    finding = found()["requirements"]
    assert finding.level is Level.WRONG
    assert finding.says == "opentelemetry-sdk 1.20.0 is installed, ai-otel needs <2,>=1.31"
    assert finding.next_step == "pip install 'opentelemetry-sdk<2,>=1.31'"


def test_mixed_versions_are_wrong_and_name_the_command(put: Put) -> None:
    put("opentelemetry-api", "1.35.0")
    finding = found()["opentelemetry-*"]
    assert finding.level is Level.WRONG
    assert "api 1.35.0" in finding.says
    assert finding.next_step.startswith("pip install opentelemetry-api==1.")


def test_a_protobuf_that_the_exporter_does_not_take_is_wrong(put: Put) -> None:
    put("protobuf", "99.0")
    finding = found()["protobuf"]
    assert finding.level is Level.WRONG
    assert "installed is 99.0" in finding.says


@pytest.mark.parametrize("kind", ["distro", "configurator"])
def test_two_distros_are_wrong_until_one_is_named(put: Put, kind: str) -> None:
    for name in ("one", "two"):
        put(f"{name}-distro", "1", entry_points=f"[opentelemetry_{kind}]\n{name} = {name}:Distro\n")
    variable = f"OTEL_PYTHON_{kind.upper()}"
    finding = found()[variable]
    assert finding.level is Level.WRONG
    assert {"one", "two"} <= set(finding.details["names"])
    assert variable not in found(**{f"PYTHON_{kind.upper()}": "one"})


@pytest.mark.parametrize("name", ["openlit", "ddtrace"])
def test_a_second_instrumentation_of_the_engine_is_reported(put: Put, name: str) -> None:
    put(name, "1.2.3")
    assert found()[name].says.startswith("1.2.3, ")


def test_another_stat_logger_is_reported(put: Put) -> None:
    put("other-stats", "1", entry_points="[vllm.stat_logger_plugins]\nother = other:Logger\n")
    assert "other:Logger" in found()["other"].says


def test_spans_for_chunks_are_reported_with_the_existing_switch(put: Put) -> None:
    put("opentelemetry-instrumentation-asgi", "0.66b2")
    assert 'exclude_spans=["receive", "send"]' in found()["opentelemetry-instrumentation-asgi"].next_step


def test_an_exporter_that_imports_prometheus_early_is_wrong() -> None:
    assert found(METRICS_EXPORTER="otlp,prometheus")["OTEL_METRICS_EXPORTER"].level is Level.WRONG


def test_requirements_that_only_an_installer_understands_are_left_to_it(put: Put) -> None:
    put("some-thing", "1", "wrapt~=99.0", "wrapt!=1", "wrapt>=99; python_version < '3'", "wrapt[x]>=99", "absent>=1")
    ((name, _, bounds),) = unmet("some-thing")
    assert (name, bounds) == ("wrapt", ">=99")
