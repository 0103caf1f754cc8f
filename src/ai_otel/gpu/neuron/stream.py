"""A child that writes one report a line, read on a thread of its own: the last report is what counts."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_otel.gpu.neuron.report import Report

ENDS_WITHIN_S = 2.0


class Stream:
    """The child, from the start to `close`. Should this process die without that, its next line ends the child."""

    def __init__(
        self, command: Sequence[str], parse: Callable[[bytes], Report | None], clock: Callable[[], float]
    ) -> None:
        self.latest: tuple[Report, float] | None = None
        """The last report, and when it came."""
        self._parse = parse
        self._clock = clock
        self._started_by = os.getpid()
        self._news = threading.Event()
        self._child = subprocess.Popen(  # noqa: S603  the operator names the program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._thread = threading.Thread(target=self._follow, name="ai-otel-neuron", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> int | None:
        """The child's status, where it has ended."""
        return self._child.poll()

    def first(self, within_s: float) -> Report | None:
        """The first report, as soon as it is there; `None` where none came, or the child ended before."""
        self._news.wait(within_s)
        return self.latest[0] if self.latest is not None else None

    def close(self) -> None:
        """End the child, first politely, and the thread with it. A fork of this process has neither."""
        if os.getpid() != self._started_by:
            return
        self._child.terminate()
        try:
            self._child.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(ENDS_WITHIN_S)

    def _follow(self) -> None:
        output = self._child.stdout
        assert output is not None  # noqa: S101  it is a pipe
        with output:
            for line in output:
                report = self._parse(line)
                if report is not None:
                    self.latest = report, self._clock()
                    self._news.set()
        self._child.wait()
        self._news.set()
