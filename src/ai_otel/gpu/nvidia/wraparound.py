"""Byte counters that wrap: NVML says of its PCI Express counters that they can, and some drivers count in 32 bits."""

from __future__ import annotations

from ai_otel.gpu.source import Support

FULL = 64
"""At this width nothing wraps in the life of a GPU."""


class Unwrapped:
    """
    One counter, whole.

    4 GiB pass a modern host link in less than 0.1 s, so between two looks a 32-bit counter may wrap any number of
    times. How often is known from the rate that went over the link, or when it cannot carry enough for one round more.
    Where neither tells, the counter says nothing, and we say that.
    """

    def __init__(self, unit_bytes: int) -> None:
        self._unit = unit_bytes
        self._last: tuple[int, float] | None = None
        self._total = 0

    def total(
        self, raw: int, bits: int, now_s: float, rate_bytes_per_s: float | None, most_bytes_per_s: float | None
    ) -> int | Support | None:
        """Bytes in all; `None` at the first look at a counter that may wrap."""
        if bits >= FULL:
            return raw * self._unit
        last, self._last = self._last, (raw, now_s)
        if last is None:
            self._total = raw
            return None
        step, elapsed = (raw - last[0]) % (1 << bits), now_s - last[1]
        rounds = self._rounds(step, 1 << bits, elapsed, rate_bytes_per_s, most_bytes_per_s)
        if rounds is None:
            return Support.INVALID
        self._total += step + rounds * (1 << bits)
        return self._total * self._unit

    def _rounds(
        self, step: int, whole: int, elapsed_s: float, rate_bytes_per_s: float | None, most_bytes_per_s: float | None
    ) -> int | None:
        """How often it went all the way round; `None` where nobody can tell."""
        if most_bytes_per_s is not None and most_bytes_per_s * elapsed_s < whole * self._unit:
            return 0
        if rate_bytes_per_s is None:
            return None
        return max(0, round((rate_bytes_per_s * elapsed_s / self._unit - step) / whole))
