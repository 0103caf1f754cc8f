"""A child process that writes one report a line. A thread keeps the last one."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ai_otel.hooks.guard import Guard

if TYPE_CHECKING:
    from ai_otel.gpu.neuron.report import NeuronReport

STOP_TIMEOUT_S = 2.0


class Stream:
    """Runs the child process until `close`. If this process dies before, the child ends at its next write."""

    def __init__(
        self, command: Sequence[str], parse: Callable[[bytes], NeuronReport | None], clock: Callable[[], float]
    ) -> None:
        self.latest: tuple[NeuronReport, float] | None = None
        """The last report, and its time by `clock` in seconds."""
        self._parse = parse
        self._clock = clock
        self._started_by = os.getpid()
        self._received = threading.Event()
        self._child = subprocess.Popen(  # noqa: S603  the operator configures the program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._thread = threading.Thread(target=self._follow, name="ai-otel-neuron", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> int | None:
        """The child's exit status; `None` while it runs."""
        return self._child.poll()

    def first(self, within_s: float) -> NeuronReport | None:
        """Wait for the first report. Returns `None` if none arrives in time or the child ends before."""
        self._received.wait(within_s)
        return self.latest[0] if self.latest is not None else None

    def close(self) -> None:
        """Stop the child (SIGTERM, then SIGKILL) and the thread. Does nothing in a fork of this process."""
        if os.getpid() != self._started_by:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(STOP_TIMEOUT_S)

    def _follow(self) -> None:
        output = self._child.stdout
        assert output is not None  # noqa: S101  it is a pipe
        guard = Guard("gpu neuron report", alone=True, lasting=True)
        with output:
            for line in output:
                report = guard(self._parse, line)
                if report is not None:
                    self.latest = report, self._clock()
                    self._received.set()
        self._child.wait()
        self._received.set()
