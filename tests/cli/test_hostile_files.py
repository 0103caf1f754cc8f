"""Files and processes that a user names: each failure is one line, in bounded time and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ai_otel.cli import main
from ai_otel.collector.rules import violations
from ai_otel.doctor.server import Server, UnknownServerError
from ai_otel.slo.objective import SloError, parsed

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
COMMANDS = (["collector", "validate"], ["slo", "render"])

FILES: dict[str, bytes] = {
    "a tab": b"a:\n\t- b\n",
    "no end": b"a: [",
    "two documents": b"a: 1\n---\nb: 2\n",
    "an unknown alias": b"a: *b\n",
    "an alias bomb": BOMB.encode(),
    "an alias bomb of mappings": BOMB.replace("[", "{k: [").replace("]", "]}").encode(),
    "a bomb of merges": MERGES.encode(),
    "an alias of what contains it": b"a: &a [*a]\n",
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "deep blocks": b"\n".join(b" " * n + b"a:" for n in range(2_000)),
    "large": b"a: 1\n" * 1_000_000,
    "a date with a 13th month": b"a: 2024-13-45\n",
    "a large integer": b"a: " + b"9" * 5000 + b"\n",
    "a key that is a list": b"[a]: b\n? {a: b}\n: c\n",
    "a tag of Python": b"a: !!python/object/apply:os.system ['true']\n",
    "not UTF-8": b"a: \xff\xfe\n",
    "a control character": b"a: \x1b[31m\n",
    "a control character in a key": b'"\\e[31mname": 1\n',
    "empty": b"",
    "a list": b"- a\n",
    "a text": b"text\n",
}


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with 1 GiB of memory."""
    limit = 1 << 30
    return subprocess.run(
        [sys.executable, "-m", "ai_otel.cli", *words],
        env={"PATH": "/no/such/directory"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


@pytest.mark.fault(
    "configuration",
    "`ai-otel collector validate` or `ai-otel slo render` reads a file that is malformed, endless, deeply nested or an "
    "alias bomb",
    "one line names the file and the reason, the exit code is 2, within seconds and 1 GiB",
)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_one_line(
    kind: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (file := tmp_path / "file.yaml").write_bytes(FILES[kind])
    started = time.monotonic()
    assert main([*command, str(file)]) == 2
    assert time.monotonic() - started < 20
    said = capsys.readouterr()
    for line in (said.out + said.err).splitlines():
        assert line.isprintable()
        assert len(line) < 1500
    if command[0] == "slo" or "\u2717" not in said.out:
        assert said.err.startswith(f"ai-otel {command[0]}: {file}: ")
        assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["an alias bomb", "a bomb of merges", "deep", "large"])
def test_memory_is_bounded(kind: str, command: list[str], tmp_path: Path) -> None:
    (file := tmp_path / "file.yaml").write_bytes(FILES[kind])
    done = run([*command, str(file)])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("file", ["/dev/zero", "/", "/no/such/file", "/proc/self/mem", "a\x1b[31m"])
def test_what_is_no_file_is_one_line(file: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, file]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ai-otel {command[0]}: ")
    assert line.isprintable()


def test_a_collector_that_hangs_is_abandoned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_otel.collector.validate.TIMEOUT_S", 0.5)
    (file := tmp_path / "file.yaml").write_text("service: {pipelines: {}}\n")
    (program := tmp_path / "collector").write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    assert main(["collector", "validate", str(file), "--collector", str(program)]) == 2
    assert "has not answered within 0.5 s" in capsys.readouterr().err
    program.chmod(0o644)
    assert main(["collector", "validate", str(file), "--collector", str(program)]) == 2
    assert "cannot be started: Permission denied" in capsys.readouterr().err


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
COLLECTOR_KEYS = [
    "service",
    "pipelines",
    "processors",
    "exporters",
    "otlp",
    "sending_queue",
    "retry_on_failure",
    "enabled",
]
SLO_KEYS = ["name", "selector", "objectives", "errors", "first_token", "objective", "threshold", "window", "labels"]
keys = scalars | st.sampled_from([*COLLECTOR_KEYS, *SLO_KEYS])
trees = st.recursive(
    scalars, lambda part: st.lists(part, max_size=4) | st.dictionaries(keys, part, max_size=5), max_leaves=30
)
rooted = trees | st.fixed_dictionaries(
    {"service": st.fixed_dictionaries({"pipelines": st.dictionaries(keys, trees, min_size=1, max_size=3)})},
    optional={"exporters": st.dictionaries(st.sampled_from(["otlp", "kafka/a"]), trees), "receivers": trees},
)
slos = trees | st.fixed_dictionaries(
    {"name": st.just("a"), "selector": st.just({"job": "a"}), "objectives": st.dictionaries(keys, trees, min_size=1)},
    optional={"window": trees, "labels": trees, "alert_labels": trees, "runbook_url": trees},
)


@given(tree=rooted)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_every_tree_is_judged(tree: Any) -> None:
    assert all(isinstance(each, str) for each in violations(tree, local=False))


@given(tree=slos)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_every_tree_is_an_slo_or_an_error(tree: Any) -> None:
    problem = "none"
    try:
        parsed(tree)
    except SloError as error:
        problem = str(error)
    assert problem


# ---------------------------------------------------------------- processes


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.fault(
    "configuration",
    "`ai-otel doctor --pid` names a process that has ended and was not reaped (a zombie)",
    "one line says so, and the exit code is 2",
)
def test_a_zombie_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        while True:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                break
            time.sleep(0.01)
        assert main(["doctor", "--pid", str(process.pid)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ai-otel doctor: {process.pid}: it has ended")


@pytest.mark.parametrize("error", [ProcessLookupError(3, "No such process"), OSError(22, "Invalid argument")])
def test_a_process_that_ends_meanwhile_is_one_line(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(UnknownServerError, match=error.strerror):
        Server.read(1)


@pytest.mark.parametrize("number", ["-1", "0", "99999999999999999999", "4194304"])
def test_a_number_that_is_no_process_is_one_line(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"--pid={number}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_process_title_is_no_program_path() -> None:
    title = "/env/bin/vllm serve MODEL --api-key s3cret"
    from ai_otel.doctor.server import _named, _program

    assert (_program([title]), _named([title])) == ("/env/bin/vllm", "vllm")
