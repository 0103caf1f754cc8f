"""`ai-otel run`: the command is the user's own, with ai-otel active in every Python below it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fake_engine
from ai_otel import activation

# Says whether ai-otel waits for an engine in the interpreter that runs it.
IS_ON = "import sys; print('ai_otel.hooks.imports' in sys.modules)"

PARENT = """
import json, multiprocessing, os, subprocess, sys

def is_on():
    import vllm
    start = sys.modules.get("ai_otel.start")
    return start is not None and start.current() is not None

def report(queue):
    queue.put(is_on())

def of_child(method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=report, args=(queue,))
    child.start()
    child.join()
    return queue.get()

if __name__ == "__main__":
    program = "import parent; print(parent.is_on())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=os.path.dirname(__file__)
    )
    other = done.stdout.strip() == "True"
    print(json.dumps({
        "here": is_on(), "spawn": of_child("spawn"), "fork": of_child("fork"), "subprocess": other,
        "pid": os.getpid(), "enabled": os.environ["AI_OTEL_ENABLED"], "path": os.environ["PYTHONPATH"],
    }))
"""


@pytest.fixture
def parent(tmp_path: Path) -> str:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    fake_engine.write_package(tmp_path)
    return str(script)


def test_the_command_and_all_its_children_are_observed(ai_otel, parent) -> None:
    """Engines work in spawned and forked children: activation in the first process alone observes nothing."""
    done = ai_otel("run", "--", sys.executable, parent)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {name: said[name] for name in ("here", "spawn", "fork", "subprocess")} == {
        "here": True,
        "spawn": True,
        "fork": True,
        "subprocess": True,
    }
    assert said["enabled"] == "true"
    assert said["path"] == activation.DIRECTORY


def test_the_command_replaces_us(clean, parent) -> None:
    """Signals and the supervisor's idea of the process are the server's own."""
    command = [sys.executable, "-m", "ai_otel.cli", "run", "--", sys.executable, parent]
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=60)
    assert json.loads(said)["pid"] == process.pid


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_is_the_commands(ai_otel, code: int) -> None:
    assert ai_otel("run", "--", sys.executable, "-c", f"raise SystemExit({code})").returncode == code


def test_a_signal_ends_the_command_as_ever(ai_otel) -> None:
    done = ai_otel("run", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)")
    assert done.returncode == -signal.SIGTERM


def test_the_commands_own_flags_stay_its_own(ai_otel) -> None:
    done = ai_otel("run", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--help", "--", "-x")
    assert done.stdout.strip() == "['--help', '--', '-x']"


def test_the_two_dashes_may_be_left_out(ai_otel) -> None:
    assert ai_otel("run", sys.executable, "-c", IS_ON).stdout.strip() == "True"


def test_an_existing_pythonpath_is_kept_behind_the_activation(ai_otel, tmp_path: Path) -> None:
    (tmp_path / "of_the_user.py").write_text("here = True\n")
    program = "import os, of_the_user; print(os.environ['PYTHONPATH'])"
    done = ai_otel("run", "--", sys.executable, "-c", program, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == os.pathsep.join([activation.DIRECTORY, str(tmp_path)])


def test_running_inside_a_run_adds_nothing(ai_otel) -> None:
    program = "import os; print(os.environ['PYTHONPATH'])"
    nested = ["run", "--", sys.executable, "-m", "ai_otel.cli", "run", "--", sys.executable, "-c", program]
    assert ai_otel(*nested).stdout.strip() == activation.DIRECTORY


def test_all_ways_in_at_once_are_one(ai_otel) -> None:
    program = "import ai_otel; print(ai_otel.instrument() is ai_otel.instrument() is ai_otel.start.current())"
    done = ai_otel("run", "--", sys.executable, "-c", program, AI_OTEL_ENABLED="true")
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_the_users_sitecustomize_still_runs(ai_otel, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.of_the_user = __file__\n")
    program = f"import builtins, sys; print(builtins.of_the_user, sys.modules['sitecustomize'].__file__); {IS_ON}"
    done = ai_otel("run", "--", sys.executable, "-c", program, PYTHONPATH=str(tmp_path))
    assert done.stdout.split() == [str(tmp_path / "sitecustomize.py")] * 2 + ["True"], done.stderr


def test_a_failing_sitecustomize_of_the_user_is_reported_and_survived(ai_otel, tmp_path: Path) -> None:
    """As without us: Python says so, and goes on."""
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('of the user')\n")
    done = ai_otel("run", "--", sys.executable, "-c", IS_ON, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == "True"
    assert "of the user" in done.stderr


def test_an_unknown_command_is_127_and_a_sentence(ai_otel) -> None:
    done = ai_otel("run", "--", "no-such-command", "--port", "1")
    assert done.returncode == 127
    assert done.stderr == "ai-otel run: no-such-command: no such command. Is it installed in this environment?\n"


def test_a_file_that_is_no_program_is_126_and_a_sentence(ai_otel, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0 no program")
    broken.chmod(0o755)
    done = ai_otel("run", "--", str(broken))
    assert done.returncode == 126
    assert done.stderr.startswith(f"ai-otel run: cannot start {broken}: ")


def test_no_command_is_2_and_says_what_to_write(ai_otel) -> None:
    for words in (["run"], ["run", "--"]):
        done = ai_otel(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "ai-otel run: nothing to run. Write: ai-otel run -- vllm serve MODEL\n"


@pytest.mark.parametrize("command", ["run", "doctor", "schema"])
def test_help_has_a_line_to_copy(ai_otel, command: str) -> None:
    done = ai_otel(command, "--help")
    assert done.returncode == 0
    assert f"  ai-otel {command} " in done.stdout.partition("\n\n")[2]


def test_the_first_help_leads_on(ai_otel) -> None:
    done = ai_otel("--help")
    assert done.returncode == 0
    for step in ("ai-otel demo", "ai-otel run -- vllm serve MODEL", "ai-otel doctor"):
        assert step in done.stdout


def test_a_misspelt_command_is_2_and_lists_the_others(ai_otel) -> None:
    done = ai_otel("docter")
    assert done.returncode == 2
    assert "doctor" in done.stderr
