"""
AWS Trainium and Inferentia by `neuron-monitor`, which writes one line of JSON a second to its output.

It is a program of aws-neuronx-tools, and runs as our child from `open` to `close`, with a configuration of the three
groups that we read. What a report says of a device stands in `neuron_report.py`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ai_otel.gpu import TRACES
from ai_otel.gpu.neuron.report import CONFIGURATION, PERIOD_S, Report, parsed
from ai_otel.gpu.neuron.stream import Stream
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Unavailable
from ai_otel.gpu.values import settled

TRACE = Path(TRACES["neuron"][0])
PLACES = ("/opt/aws/neuron/bin",)
"""Where aws-neuronx-tools is installed, on PATH or not."""

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
        """Start `neuron-monitor`, and wait for its first report. Raises `Unavailable`."""
        program = found(self._command)
        if program is None:
            raise Unavailable(f"{self._command} is not on PATH: install aws-neuronx-tools.", installed=TRACE.exists())
        try:
            report = self._first_report(program)
        except Unavailable:
            self.close()
            raise
        return report.devices

    def read(self, device: Device) -> GpuReading:
        """What the last report says of one device. Raises `DeviceLost` where there has been none for a while."""
        return settled(self._last_report().reading(device, processes=self._processes))

    def read_energy(self, device: Device) -> float | None:
        """None: `neuron-monitor` tells neither power nor energy."""
        del device
        return None

    def events(self) -> Sequence[GpuEvent]:
        """None: faults are not numbered."""
        return ()

    def close(self) -> None:
        """End the child, and wait for it."""
        stream, self._stream = self._stream, None
        directory, self._directory = self._directory, None
        if stream is not None:
            stream.close()
        if directory is not None:
            directory.cleanup()

    def _first_report(self, program: str) -> Report:
        self._directory = tempfile.TemporaryDirectory(prefix="ai-otel-neuron-")
        configuration = Path(self._directory.name) / "monitor.json"
        configuration.write_text(CONFIGURATION)
        try:
            self._stream = Stream([program, "-c", str(configuration)], parsed, self._clock)
        except OSError as error:
            raise Unavailable(f"{program} does not start: {error}.", installed=True) from None
        report = self._stream.first(FIRST_REPORT_S)
        if report is None:
            ended = self._stream.ended
            what = f"ended with status {ended}" if ended is not None else f"told nothing in {FIRST_REPORT_S:g} s"
            raise Unavailable(f"{program} {what}: run it by hand to see why.", installed=True)
        if not report.devices:
            reason = report.hardware_error or "it tells of no device"
            raise Unavailable(
                f"{program} finds no Neuron device ({reason}): load the Neuron driver, and give this container "
                "/dev/neuron0, 1, ….",
                installed=TRACE.exists(),
            )
        return report

    def _last_report(self) -> Report:
        stream = self._stream
        if stream is None or stream.ended is not None or stream.latest is None:
            raise DeviceLost("neuron-monitor has ended")
        report, heard_at_s = stream.latest
        if self._clock() - heard_at_s > STALE_AFTER_S:
            raise DeviceLost(f"neuron-monitor has told nothing for {STALE_AFTER_S:g} s")
        return report


def found(command: str) -> str | None:
    """The program, on PATH or where AWS installs it."""
    return shutil.which(command) or next(
        (str(path) for place in PLACES if (path := Path(place) / command).is_file()), None
    )
