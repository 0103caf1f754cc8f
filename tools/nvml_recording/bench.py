"""The GPU that experiments run on, and the loads that are available."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from nvml_recording import load
from nvml_recording.library import Nvml


@dataclass
class Bench:
    """One GPU, and the duration of an experiment in seconds."""

    nvml: Nvml
    handle: Any
    seconds: float
    device: str = "cuda"
    """Torch device of the load."""

    def under(self, kind: str) -> Any:
        """Run a load for 1 s longer than the experiment; none for `idle`."""
        return nullcontext() if kind == "idle" else load.running(kind, self.seconds + 1, self.device)

    def kinds(self) -> tuple[str, ...]:
        """Return the loads that are available."""
        return ("idle",) if load.missing() else ("idle", *load.KINDS)


def spread(numbers: list[float]) -> dict[str, float] | None:
    """Return minimum, median, maximum and count."""
    if not numbers:
        return None
    return {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers), "n": len(numbers)}
