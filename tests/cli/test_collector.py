"""`ai-otel collector`, as a person types it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from ai_otel.cli import main
from ai_otel.contract import load


def test_render_prints_a_complete_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collector", "render", "--role", "sidecar", "--engine", "vllm", "--backend", "otlp"]) == 0
    out = capsys.readouterr().out
    assert "otlp_grpc/backend" in out
    assert "transform/vllm" in out
    assert "transform/sglang" not in out


def test_an_unknown_engine_is_reported_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collector", "render", "--role", "sidecar", "--engine", "vlm"]) == 2
    assert "there is no engine vlm; there are" in capsys.readouterr().err


def test_signals_without_a_backend_are_reported_beside_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collector", "render", "--role", "gateway_stateful", "--backend", "prometheus"]) == 0
    assert "no backend here takes it: traces/otlp" in capsys.readouterr().err


def program(directory: Path, code: int) -> Path:
    """Stands for a Collector that accepts or refuses; the real one is asked in tests/collector."""
    made = directory / "collector"
    made.write_text(f'#!/bin/sh\necho said "$@"\nexit {code}\n')
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return made


@pytest.fixture
def rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    main(["collector", "render", "--role", "gateway"])
    (file := tmp_path / "gateway.yaml").write_text(capsys.readouterr().out)
    return file


def test_validate_names_the_collector_that_accepts_the_file(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepting = program(tmp_path, 0)
    assert main(["collector", "validate", str(rendered), "--collector", str(accepting)]) == 0
    assert capsys.readouterr().out == f"✓ the rules of this project hold\n✓ {accepting} accepts it\n"


def test_validate_prints_the_errors_of_the_collector(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collector", "validate", str(rendered), "--collector", str(program(tmp_path, 1))]) == 1
    assert f"said validate --config {rendered}" in capsys.readouterr().out


def test_without_a_collector_validate_says_how_to_get_one(
    rendered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["collector", "validate", str(rendered)]) == 2
    assert "make collector" in capsys.readouterr().err


def test_a_file_against_the_rules_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "bad.yaml").write_text("service: {pipelines: {traces: {processors: [batch]}}}")
    assert main(["collector", "validate", str(file), "--collector", str(program(tmp_path, 0))]) == 1
    assert "✗ traces: memory_limiter must be its first processor" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(load().engines))
def test_explain_shows_how_to_scrape_every_engine_and_its_metrics(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collector", "explain", name]) == 0
    out = capsys.readouterr().out
    assert f"--engine {name}" in out
    assert all(row["to"] in out for row in load().engines[name]["metrics"])


NAMELESS = """\
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{UUID="GPU-1"} 1000
# TYPE DCGM_FI_DEV_GPU_UTIL histogram
DCGM_FI_DEV_GPU_UTIL_bucket{UUID="GPU-1",le="+Inf"} 1
DCGM_FI_DEV_GPU_UTIL_count{UUID="GPU-1"} 1
DCGM_FI_DEV_GPU_UTIL_sum{UUID="GPU-1"} 1
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{UUID="N/A"} 1000
# TYPE DCGM_FI_DEV_BRAND_NEW gauge
DCGM_FI_DEV_BRAND_NEW{UUID="GPU-1"} 1000
# TYPE DCGM_FI_DEV_PSTATE gauge
DCGM_FI_DEV_PSTATE{UUID="GPU-1"} 0
"""


def test_explain_of_a_page_names_what_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "page.prom").write_text(NAMELESS)
    assert main(["collector", "explain", "dcgm", str(file)]) == 0
    _, lost, unknown = re.split("NOT USED|UNKNOWN TO THE MAPPING", capsys.readouterr().out)
    found = {tuple(line.split()[:3]) for line in lost.splitlines() if line}
    assert ("DCGM_FI_DEV_FB_USED", "hw.gpu.memory.limit", "incomplete") in found
    assert ("DCGM_FI_DEV_SM_CLOCK", "ai_otel.gpu.frequency", "attribute") in found
    assert "needs DCGM_FI_DEV_FB_FREE" in lost
    assert "is a number, and the endpoint declares a histogram" in lost
    assert unknown.split() == ["DCGM_FI_DEV_BRAND_NEW"]


def test_explain_reads_a_url(answering, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, body=NAMELESS.encode()) as url:
        assert main(["collector", "explain", "dcgm", f"{url}/metrics"]) == 0
    assert "DCGM_FI_DEV_FB_USED" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["/no/such/file", "http://127.0.0.1:9/metrics"])
def test_explain_of_a_page_that_cannot_be_read_says_so(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collector", "explain", "dcgm", page]) == 2
    assert page in capsys.readouterr().err


def test_explain_names_the_flag_and_what_stays_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["collector", "explain", "llama_cpp"])
    out = capsys.readouterr().out
    assert "only with --metrics" in out
    assert "--model-draft" in out
    assert "ai_otel.kv_cache.utilization" in out.partition("NOT EXPOSED")[2]
    assert "gen_ai.server.time_to_first_token  (measured by the library)" in out
