"""Whether ai-otel is active: the switch, the entry points, and what disables them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ai_otel import activation
from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.switch import Configuration, check_switch

Command = Callable[..., CompletedProcess[str]]


def found(environment: dict[str, str], *engines: str, pid: int | None = None) -> dict[str, Finding]:
    return {each.subject: each for each in check_switch(Configuration.read(environment, pid), frozenset(engines))}


def wrong(environment: dict[str, str], *engines: str) -> list[str]:
    return [name for name, each in found(environment, *engines).items() if each.level is Level.WRONG]


def test_nothing_set_is_nothing_wrong_and_says_how_to_switch_on() -> None:
    assert wrong({}) == []
    assert "`ai-otel run` sets it" in found({})["AI_OTEL_ENABLED"].says


def test_the_switch_is_read_as_the_library_reads_it() -> None:
    assert found({"AI_OTEL_ENABLED": "1"})["AI_OTEL_ENABLED"].details == {"on": True}
    assert found({"AI_OTEL_ENABLED": "off"})["AI_OTEL_ENABLED"].details == {"on": False}


def test_a_running_server_without_the_switch_is_wrong() -> None:
    finding = found({}, pid=4711)["AI_OTEL_ENABLED"]
    assert finding.level is Level.WRONG
    assert "ai_otel.instrument()" in finding.says


def test_a_misspelt_setting_is_reported_with_the_known_ones() -> None:
    finding = found({"AI_OTEL_METRIC": "false"})["AI_OTEL_METRIC"]
    assert finding.level is Level.WRONG
    assert finding.says.startswith("unknown setting AI_OTEL_METRIC; known are AI_OTEL_AGENT_INTERVAL,")


def test_a_variable_of_the_collector_is_a_note() -> None:
    finding = found({"AI_OTEL_ENGINE": "sglang"})["AI_OTEL_ENGINE"]
    assert (finding.level, finding.says) == (Level.NOTE, "read by a Collector only, not by the library")


def test_a_malformed_setting_is_reported_with_its_format() -> None:
    finding = found({"AI_OTEL_QUEUE_LIMIT": "many"})["AI_OTEL_QUEUE_LIMIT"]
    assert finding.level is Level.WRONG
    assert "using 8192" in finding.says


def test_an_allow_list_of_vllm_that_leaves_us_out_is_wrong_where_vllm_is() -> None:
    environment = {"VLLM_PLUGINS": "lora_filesystem_resolver"}
    assert "Set VLLM_PLUGINS=lora_filesystem_resolver,ai_otel" in found(environment, "vllm")["VLLM_PLUGINS"].says
    assert wrong(environment) == []
    assert wrong({"VLLM_PLUGINS": "x,ai_otel"}, "vllm") == []


def test_the_rust_front_end_is_wrong_because_it_makes_no_spans() -> None:
    finding = found({"VLLM_USE_RUST_FRONTEND": "1"}, "vllm")["VLLM_USE_RUST_FRONTEND"]
    assert finding.level is Level.WRONG
    assert "no request spans" in finding.says


@pytest.mark.parametrize(
    "environment",
    [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_CONFIG_FILE": "/no/such"}],
)
def test_what_silences_the_sdk_is_wrong(environment: dict[str, str]) -> None:
    assert wrong(environment) == list(environment)


def test_what_the_user_disabled_is_reported_and_not_wrong() -> None:
    environment = {"AI_OTEL_TRACES": "false", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi, ai_otel"}
    finding = found(environment)
    assert finding["AI_OTEL_TRACES"].says == "off: there are no traces"
    assert finding["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"].level is Level.NOTE
    assert wrong(environment) == []


@pytest.mark.requires(module="opentelemetry.configuration")
def test_a_configuration_file_is_read_as_the_sdk_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "otel.yaml"
    file.write_text('file_format: "1.0"\n')
    assert found({"OTEL_CONFIG_FILE": str(file)})["OTEL_CONFIG_FILE"].level is Level.OK
    file.write_text("file_format: [")
    finding = found({"OTEL_CONFIG_FILE": str(file)})["OTEL_CONFIG_FILE"]
    assert finding.level is Level.WRONG
    assert "\n" not in finding.says


@pytest.mark.fault(
    "configuration",
    "`ai-otel doctor` runs with `OTEL_CONFIG_FILE` and an `OTEL_PROPAGATORS` that the SDK fails for",
    "it does not fail: the file is a finding, and the rest is examined",
)
@pytest.mark.requires(module="opentelemetry.configuration")
def test_a_variable_that_the_sdk_fails_for_does_not_end_the_examination(ai_otel: Command, tmp_path: Path) -> None:
    (file := tmp_path / "otel.yaml").write_text("- a\n")
    done = ai_otel("doctor", "--json", OTEL_CONFIG_FILE=str(file), OTEL_PROPAGATORS="none-such")
    assert "Traceback" not in done.stderr
    assert "is no valid configuration" in done.stdout


def test_a_server_below_ai_otel_run_needs_no_other_entry_point() -> None:
    below = found({"PYTHONPATH": f"/other:{activation.DIRECTORY}"}, "vllm")
    assert below["ai-otel run"].level is Level.OK
    assert not {"ai_otel.pth", "vllm plug-in"} & set(below)
    assert "ai_otel.pth" in found({}, "vllm")
