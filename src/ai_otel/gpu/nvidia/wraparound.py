"""Wraparound correction of byte counters: some drivers count PCI Express traffic in 32 bits."""

from __future__ import annotations

from ai_otel.gpu.counters import LARGE_FALL
from ai_otel.gpu.source import Support

FULL = 64
"""Counters of this width do not wrap in the lifetime of a GPU."""
MARGIN = 1.05
"""A link's capacity times this is more than it carries, in spite of inexact times of samples."""


class WraparoundCounter:
    """
    One byte counter without wraparounds.

    A modern host link transfers 4 GiB in less than 0.1 s, so a 32-bit counter may wrap several times between two
    samples. The number of wraparounds follows from the measured rate, or is 0 if the link's capacity rules one out.
    Without either the total is invalid.
    """

    def __init__(self, unit_bytes: int) -> None:
        self._unit = unit_bytes
        self._last: tuple[int, float] | None = None
        self._total = 0

    def total(
        self, raw: int, bits: int, now_s: float, rate_bytes_per_s: float | None, most_bytes_per_s: float | None
    ) -> int | Support | None:
        """Return total bytes; `None` for the first sample of a counter that may wrap."""
        if bits >= FULL:
            return raw * self._unit
        last, self._last = self._last, (raw, now_s)
        if last is None:
            self._total = raw
            return None
        step, elapsed = (raw - last[0]) % (1 << bits), now_s - last[1]
        wraparounds = self._wraparounds(step, 1 << bits, elapsed, rate_bytes_per_s, most_bytes_per_s)
        if wraparounds is None:
            return Support.INVALID
        if wraparounds < 0:
            # More than the link can have carried: the counter stepped back. It is held until it has passed its last
            # value, or starts again after a reset.
            if raw > last[0] * LARGE_FALL:
                self._last = last
            return self._total * self._unit
        self._total += step + wraparounds * (1 << bits)
        return self._total * self._unit

    def _wraparounds(
        self, step: int, whole: int, elapsed_s: float, rate_bytes_per_s: float | None, most_bytes_per_s: float | None
    ) -> int | None:
        """Return the number of wraparounds; `None` if unknown, negative if not even the step is possible."""
        most = None if most_bytes_per_s is None else MARGIN * most_bytes_per_s * elapsed_s / self._unit
        if most is not None and most < whole:
            return 0 if step <= most else -1
        if rate_bytes_per_s is None:
            return None
        return round((rate_bytes_per_s * elapsed_s / self._unit - step) / whole)
