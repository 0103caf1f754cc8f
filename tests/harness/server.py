"""Starts a real server as a child process, waits until it answers, and stops it."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.polling import wait_until


class ServerError(RuntimeError):
    """The server did not come up; the message ends with its last lines."""


RUNNING: list[Server] = []
"""Servers that have not been stopped: `tests/conftest.py` asks them whether they died when a test fails."""

_WORKER_DEATH = re.compile(r".*died unexpectedly \(exit code: -(\d+)\).*")


def death_of(log: str, returncode: int | None = None) -> str | None:
    """Return one line if the process or one of its workers was ended by a signal, with the signal's name."""
    if returncode is not None and returncode < 0:
        return f"the server died of {_signal_name(-returncode)}"
    for line in log.splitlines():
        if found := _WORKER_DEATH.match(line):
            return f"a worker of the server died of {_signal_name(int(found[1]))}: {line.strip()}"
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Server:
    """One running server."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def page(self, path: str = "/metrics") -> str:
        """One page of it."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return str(response.read().decode())

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def death(self) -> str | None:
        """Return one line if the server or one of its workers was ended by a signal."""
        return death_of(self.output(), self.process.poll())

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        # Processes that it left behind are in its process group.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then make it; one that has ended already is let be."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait(10)


def _own_ports() -> Iterator[int]:
    """
    The ports of this process, again and again: a thousand that it locks against other runs of tests.

    They are below those that Linux gives to outgoing connections, of which another process would take one before the
    server listens.
    """
    for first in range(11_000, 31_000, 1000):
        lock = (Path("/tmp") / f"ai-otel-tests-{os.getuid()}-ports-{first}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _LOCKS.append(lock)
        return itertools.cycle(range(first, first + 1000))
    raise ServerError("20 runs of tests on this machine have all ports")


_LOCKS: list[IO[str]] = []
_PORTS: list[Iterator[int]] = []


def free_port() -> int:
    """A port of this run of tests that was free a moment ago."""
    if not _PORTS:
        _PORTS.append(_own_ports())
    for port in _PORTS[0]:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle does not end")


@contextmanager
def serving(
    command: Sequence[str | Path],
    port: int,
    environment: Mapping[str, str],
    log: Path,
    *,
    health: str = "/health",
    timeout_s: float = 240,
    inherit: bool = True,
) -> Iterator[Server]:
    """Run `command` until the block ends; it must listen on `port`. Without `inherit` it has `environment` alone."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={
                **dict.fromkeys(("TMPDIR", "AI_OTEL_LOCK_DIR"), tempfile.gettempdir()),
                **(os.environ if inherit else {}),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=log.parent,
        )
    server = Server(process, url, log)
    RUNNING.append(server)
    try:
        _wait(server, health, timeout_s)
        yield server
    finally:
        RUNNING.remove(server)
        server.stop()


def _wait(server: Server, health: str, timeout_s: float) -> None:
    def ended_or_healthy() -> bool:
        if server.process.poll() is not None:
            return True
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            server.page(health)
            return True
        return False

    if not wait_until(ended_or_healthy, timeout_s, interval_s=0.3) or server.process.poll() is not None:
        reason = server.death() or f"{server.url} did not come up"
        raise ServerError(f"{reason}:\n" + "\n".join(server.output().splitlines()[-40:]))
