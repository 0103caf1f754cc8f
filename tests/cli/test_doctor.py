"""`ai-otel doctor`, the whole command, against real endpoints and real processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ai_otel.doctor import diagnosis
from ai_otel.doctor.finding import GROUPS, Finding, Level
from ai_otel.doctor.server import Server, UnknownServerError, _named

ENGINES = ("torch", "vllm", "sglang", "xllamacpp", "llama_cpp")


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """By subject."""
    return {each["subject"]: each for each in json.loads(done.stdout)["findings"]}


@contextmanager
def running(environment: dict[str, str], *flags: str) -> Iterator[int]:
    """A server that does nothing; yields its process id."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", *flags]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


def test_telemetry_that_arrives_is_ok(ai_otel, sink) -> None:
    done = ai_otel("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    assert done.stderr == ""
    assert {name: findings(done)[name]["level"] for name in ("traces", "metrics")} == {"traces": "ok", "metrics": "ok"}
    assert [span.name for span in sink.spans] == ["ai-otel doctor"]


def test_telemetry_that_does_not_arrive_is_1_and_the_last_line_says_so(ai_otel, closed_port) -> None:
    done = ai_otel("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=closed_port)
    assert done.returncode == 1
    last = done.stdout.rstrip().splitlines()[-1]
    assert "wrong: " in last
    assert last.endswith("traces, metrics.")
    assert "-> Start a Collector there" in done.stdout


def test_the_exit_code_and_the_report_agree(ai_otel, sink) -> None:
    done = ai_otel("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    document = json.loads(done.stdout)
    assert document["well"] is (done.returncode == 0)
    assert document["well"] is all(each["level"] != "wrong" for each in document["findings"])


def test_the_keys_for_machines_are_stable(ai_otel, sink) -> None:
    document = json.loads(ai_otel("doctor", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=sink.url).stdout)
    assert set(document) == {"ai_otel", "python", "prefix", "well", "summary", "findings"}
    for each in document["findings"]:
        assert set(each) == {"group", "subject", "level", "says", "next_step", "details"}
        assert each["group"] in GROUPS
        assert each["level"] in {"ok", "note", "wrong"}


def test_no_engine_is_imported(clean, sink) -> None:
    program = f"import sys; from ai_otel.cli import main; main(); print([n for n in {ENGINES} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"],
        env={**clean, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_secret_is_never_printed(ai_otel, sink) -> None:
    done = ai_otel(
        "doctor", OTEL_EXPORTER_OTLP_ENDPOINT=sink.url, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cret"
    )
    assert "authorization" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_what_is_piped_has_no_colours(ai_otel, sink) -> None:
    assert "\033" not in ai_otel("doctor", OTEL_EXPORTER_OTLP_ENDPOINT=sink.url).stdout


@pytest.mark.parametrize("words", [["--metrics-url", "localhost:8000"], ["--pid", "one"], ["--pid", "0"]])
def test_wrong_usage_is_2_and_says_what_to_write(ai_otel, words: list[str]) -> None:
    done = ai_otel("doctor", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ai-otel doctor" in done.stderr


# ---------------------------------------------------------------- a running server


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_running_server_is_judged_by_what_it_was_started_with(ai_otel, clean, sink, closed_port) -> None:
    theirs = {"AI_OTEL_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "AI_OTEL_TYPO": "1"}
    with running({**clean, **theirs}, "--enable-lora", "--api-key=s3cret") as pid:
        done = ai_otel("doctor", "--json", "--pid", str(pid), OTEL_EXPORTER_OTLP_ENDPOINT=closed_port)
    found = findings(done)
    assert found["AI_OTEL_ENABLED"]["details"] == {"on": True}
    assert found["AI_OTEL_TYPO"]["level"] == "wrong"
    assert found["traces"]["level"] == "ok"
    assert found[f"pid {pid}"]["details"] == {"pid": pid, "flags": ["--api-key", "--enable-lora"]}
    assert "s3cret" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_that_is_not_there_is_2_and_a_sentence(ai_otel) -> None:
    done = ai_otel("doctor", "--pid", "4194304")
    assert (done.returncode, done.stderr) == (2, "ai-otel doctor: 4194304: there is no such process\n")


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (
            ["/env/bin/python3", "-m", "vllm.entrypoints.openai.api_server", "--port"],
            "python3 -m vllm.entrypoints.openai.api_server",
        ),
        (["/env/bin/python", "/env/bin/vllm", "serve", "secret"], "python vllm"),
        (["python", "-c", "secret"], "python"),
        (["python"], "python"),
        (["/usr/bin/llama-server", "secret"], "llama-server"),
        ([], ""),
    ],
)
def test_of_a_command_line_only_the_program_is_printed(words: list[str], runs: str) -> None:
    assert _named(words) == runs


def test_a_process_of_another_user_says_who_may_read_it(monkeypatch) -> None:
    def denied(_: object) -> bytes:
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(UnknownServerError, match="as the user who started it, or as root"):
        Server.read(1)


# ---------------------------------------------------------------- the text


FINDINGS = [
    Finding("export", "traces", Level.WRONG, "refused", "Start one."),
    Finding("export", "metrics", Level.WRONG, "refused", "Start one."),
    Finding("switch", "AI_OTEL_ENABLED", Level.NOTE, "off"),
    Finding("switch", "A_VARIABLE_WITH_A_NAME_THAT_NO_COLUMN_HOLDS", Level.OK, "on " * 30),
]


def test_groups_are_aligned_and_a_step_that_is_shared_stands_once() -> None:
    lines = diagnosis.as_text(FINDINGS, coloured=False, width=80).splitlines()
    assert lines[lines.index(GROUPS["export"]) :][:4] == [
        GROUPS["export"],
        "  wrong  traces   refused",
        "  wrong  metrics  refused",
        "                  -> Start one.",
    ]
    assert max(len(line) for line in lines[1:]) <= 80
    assert lines[-1] == "2 things are wrong: traces, metrics."


def test_all_is_well_is_said() -> None:
    assert diagnosis.as_text([], coloured=False).endswith("\n\nAll is well.")
    assert diagnosis.summary(FINDINGS[:1]) == "1 thing is wrong: traces."


def test_colours_are_only_on_the_level() -> None:
    assert "  \033[31mwrong\033[0m  traces   refused" in diagnosis.as_text(FINDINGS[:2], coloured=True)


def test_the_help_names_the_exit_codes(capsys) -> None:
    from ai_otel.cli import doctor

    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["doctor", "--help"])
    assert "0 all is well, 1 something is wrong" in capsys.readouterr().out
