"""
AWS Trainium and Inferentia by `neuron-monitor`, which writes one JSON line a second.

The program is part of aws-neuronx-tools. It runs as a child process from `open` to `close`, configured with the three
metric groups that `report.py` reads.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ai_otel.gpu import TRACES
from ai_otel.gpu.neuron.report import CONFIGURATION, PERIOD_S, NeuronReport, parse_report
from ai_otel.gpu.neuron.stream import Stream
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Unavailable
from ai_otel.gpu.values import fill_reasons

TRACE = Path(TRACES["neuron"][0])
DIRECTORIES = ("/opt/aws/neuron/bin",)
"""Installation directories of aws-neuronx-tools."""

FIRST_REPORT_S = 15.0
STALE_AFTER_S = 10 * PERIOD_S


class NeuronSource:
    """The Neuron devices of this instance. All calls come from one thread; the reports are read on another."""

    vendor = "neuron"

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._command = options.neuron_monitor
        self._processes = options.processes
        self._clock = clock
        self._stream: Stream | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> Sequence[Device]:
        """Start `neuron-monitor` and wait for its first report. Raises `Unavailable`."""
        program = find_program(self._command)
        if program is None:
            raise Unavailable(f"{self._command} is not on PATH: install aws-neuronx-tools.", installed=TRACE.exists())
        try:
            report = self._first_report(program)
        except Unavailable:
            self.close()
            raise
        return report.devices

    def read(self, device: Device) -> GpuReading:
        """Read one device's values from the last report. Raises `DeviceLost` if it is older than 10 s."""
        return fill_reasons(self._last_report().reading(device, processes=self._processes))

    def read_energy(self, device: Device) -> float | None:
        """Return `None`: `neuron-monitor` reports neither power nor energy."""
        del device
        return None

    def events(self) -> Sequence[GpuEvent]:
        """Return nothing: `neuron-monitor` reports no events."""
        return ()

    def close(self) -> None:
        """Stop the child process and wait for it."""
        stream, self._stream = self._stream, None
        directory, self._directory = self._directory, None
        if stream is not None:
            stream.close()
        if directory is not None:
            directory.cleanup()

    def _first_report(self, program: str) -> NeuronReport:
        self._directory = tempfile.TemporaryDirectory(prefix="ai-otel-neuron-")
        configuration = Path(self._directory.name) / "monitor.json"
        configuration.write_text(CONFIGURATION)
        try:
            self._stream = Stream([program, "-c", str(configuration)], parse_report, self._clock)
        except OSError as error:
            raise Unavailable(f"{program} does not start: {error}.", installed=True) from None
        report = self._stream.first(FIRST_REPORT_S)
        if report is None:
            ended = self._stream.ended
            what = f"ended with status {ended}" if ended is not None else f"reported nothing in {FIRST_REPORT_S:g} s"
            raise Unavailable(f"{program} {what}: run it by hand to see why.", installed=True)
        if not report.devices:
            reason = report.hardware_error or "it reports no device"
            raise Unavailable(
                f"{program} finds no Neuron device ({reason}): load the Neuron driver, and give this container "
                "/dev/neuron0, 1, ….",
                installed=TRACE.exists(),
            )
        return report

    def _last_report(self) -> NeuronReport:
        stream = self._stream
        if stream is None or stream.ended is not None or stream.latest is None:
            raise DeviceLost("neuron-monitor has ended")
        report, received_at_s = stream.latest
        if self._clock() - received_at_s > STALE_AFTER_S:
            raise DeviceLost(f"neuron-monitor has reported nothing for {STALE_AFTER_S:g} s")
        return report


def find_program(command: str) -> str | None:
    """Return the path of the program: on PATH, or where AWS installs it."""
    return shutil.which(command) or next(
        (str(path) for directory in DIRECTORIES if (path := Path(directory) / command).is_file()), None
    )
