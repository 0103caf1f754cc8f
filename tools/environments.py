"""Python environments of this repository, made with uv: from a bare `python3` to a ready `.venv` in one command.

Runs on any Python >= 3.10 with nothing installed: the first thing it makes is its own uv, in the cache.
Environments other than `.venv` live in the cache too, each under a key of everything that went into it, so that an
unchanged one is never built twice and a changed one never mixes with the old.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
LOCKS = ROOT / "tools/locks"
LOWEST_LOCK = LOCKS / "lowest.lock"
VENV = ROOT / ".venv"
UV_VERSION = "0.13.9"
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")

# pip's setting → uv's: a mirror or certificate authority that is configured for pip is used here too.
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def say(text: str) -> None:
    """Print at once: a person waits for the next step."""
    print(text, flush=True)


def cache_dir() -> Path:
    """Where everything costly is kept; `AI_OTEL_CACHE` moves it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AI_OTEL_CACHE") or Path(base) / "ai-otel")


def key_of(*parts: str | Path) -> str:
    """Name what goes into an environment; a path counts by its content."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time build `path`; a second one waits and then finds it ready."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str:
    """Run quietly; on failure raise with what the command said, which is what the reader needs."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        name = " ".join(str(part) for part in command[:4])
        raise SystemExit(f"{name} … failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


# ---------------------------------------------------------------- uv


@functools.cache
def uv() -> Path:
    """Return our pinned uv, installing it into the cache the first time (about 5 s)."""
    home = cache_dir() / f"uv-{UV_VERSION}"
    program = home / "bin/uv"
    with exclusive(home):
        if not program.exists():
            say(f"uv {UV_VERSION}: installing into {home} (about 5 s, once)")
            shutil.rmtree(home, ignore_errors=True)
            _venv_without_uv(home)
            run([home / "bin/python", "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}"])
    return program


def _venv_without_uv(home: Path) -> None:
    base = str(this_interpreter())
    made = subprocess.run([base, "-m", "venv", str(home)], capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(home, ignore_errors=True)
        raise SystemExit(
            f"{base} cannot make a virtual environment: install its venv module (Debian, Ubuntu: "
            f"apt install python3-venv), or name another: make setup PYTHON=python3.12\n{made.stdout}{made.stderr}"
        )


@functools.cache
def uv_settings() -> dict[str, str]:
    """Return the process environment, with pip's settings said in uv's words and no interpreter ever downloaded."""
    astray = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}  # an environment that is switched on is not the one we mean
    env = {name: value for name, value in os.environ.items() if name not in astray}
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    pip = uv().with_name("python")
    for line in run([pip, "-m", "pip", "config", "list"]).splitlines():
        name, _, quoted = line.partition("=")
        target = PIP_TO_UV.get(name.rpartition(".")[2])
        if target:
            env.setdefault(target, quoted.strip("'\""))
    return env


def run_uv(*arguments: str | Path) -> str:
    """Run one uv command in the repository root."""
    return run([uv(), *arguments], uv_settings())


# ---------------------------------------------------------------- interpreters


def this_interpreter() -> Path:
    """Return the interpreter below us: with an environment switched on, `python3` is that environment's."""
    base = Path(sys.base_prefix) / f"bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return base if base.exists() else Path(sys.executable)


def interpreter(version: str) -> Path | None:
    """Find Python `version` ("3.12") on this machine, or None; never downloads one."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # pyenv's shims answer only for the version that is switched on; the interpreters behind them always do.
    installed = sorted(root.glob(f"versions/{version}*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    for candidate in [*installed, *([Path(on_path)] if on_path else [])]:
        asked = subprocess.run(
            [str(candidate), "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return candidate
    return None


def version_of(python: Path) -> str:
    """Return "3.12" for an interpreter or an environment's python."""
    return run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()


# ---------------------------------------------------------------- environments


def create(path: Path, python: Path, lock: Path) -> Path:
    """Make `path` hold exactly what `lock` says, on `python`; return its interpreter. Instant when it already does.

    The marker is written last: an environment whose making was interrupted is made again from nothing.
    """
    marker, wanted = path / "ready", key_of(version_of(python), str(python), lock)
    with exclusive(cache_dir() / f"making-{key_of(str(path))}"):
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(path, ignore_errors=True)
            run_uv("venv", "--quiet", "--python", python, path)
            run_uv("pip", "sync", "--quiet", "--require-hashes", "--python", path / "bin/python", lock)
            marker.write_text(wanted)
    return path / "bin/python"


def cached(name: str, python: Path, lock: Path) -> Path:
    """Return the interpreter of a cached environment, making it if it is not there."""
    return create(cache_dir() / f"{name}-{key_of(version_of(python), lock)}", python, lock)


def build_wheel(into: Path) -> Path:
    """Build our wheel with the hatchling of `.venv`: no network, the same bytes wherever it is built."""
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("ai_otel-*.whl"):
        old.unlink()
    run_uv("build", "--quiet", "--wheel", "--no-build-isolation", "--python", VENV / "bin/python", "--out-dir", into)
    (wheel,) = into.glob("ai_otel-*.whl")
    return wheel


def install_wheel(python: Path, wheel: Path) -> None:
    """Put our wheel, and nothing else, into an environment."""
    run_uv("pip", "install", "--quiet", "--no-deps", "--reinstall", "--python", python, wheel)


def setup() -> None:
    """Make `.venv`: the locked development environment with this checkout installed in it, editable."""
    started = time.monotonic()
    say("setup: .venv from requirements.lock (about 1 min with an empty download cache, 5 s with a full one)")
    python = create(VENV, this_interpreter(), LOCK)
    run_uv("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", python, "--editable", ROOT)
    (VENV / "ready").touch()
    say(f"setup: ready in {time.monotonic() - started:.0f} s: Python {version_of(python)} in {VENV.relative_to(ROOT)}")


COMPILE = (
    *("pip", "compile", "--quiet", "--upgrade", "--universal", "--generate-hashes", "--no-annotate"),
    *("--custom-compile-command", "make lock"),
)
# Servers that tests start, each in an environment of its own: what it is locked with, besides its `.in` file.
SERVERS: dict[str, tuple[str | Path, ...]] = {
    "vllm": ("--override", LOCKS / "vllm.override"),
    "triton": ("--no-deps",),
    "bentoml": (),
}


def lock() -> None:
    """Resolve every requirement afresh and write the lock files (about 30 s)."""
    say("lock: resolving for Python 3.10 to 3.13 on every platform (about 30 s)")
    run_uv(*COMPILE, "--python-version", "3.10", "pyproject.toml", "--all-extras", "--group", "dev", "-o", LOCK)
    _lock_lowest()
    for name, options in SERVERS.items():
        wanted, output = LOCKS / f"{name}.in", LOCKS / f"{name}.lock"
        run_uv(*COMPILE, "--python-version", "3.11", wanted, *options, "-o", output)
    say("lock: done; run `make test`, then read the diff")


def _lock_lowest() -> None:
    """Lock what we require at its lower bounds, beside the newest test tools: only the former are under test."""
    floors = cache_dir() / "floors.txt"
    lowest = ("--resolution", "lowest-direct", "--no-deps")
    run_uv(*COMPILE, *lowest, "--python-version", "3.10", "pyproject.toml", "-o", floors)
    test_tools = ("pyproject.toml", "--group", "test", "--constraint", floors)
    run_uv(*COMPILE, "--python-version", "3.10", *test_tools, "-o", LOWEST_LOCK)


def wheel() -> None:
    """Build our wheel into `dist/`."""
    say(f"wheel: {build_wheel(ROOT / 'dist').relative_to(ROOT)}")


COMMANDS = {"setup": setup, "lock": lock, "wheel": wheel}


def main(arguments: Sequence[str]) -> None:
    """`python tools/environments.py setup | lock | wheel`."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        raise SystemExit(f"usage: python tools/environments.py {' | '.join(COMMANDS)}")
    COMMANDS[arguments[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
