"""What became of the spans and metric points that ai-otel's own exporters were given."""

from __future__ import annotations

from collections import Counter
from typing import Literal

Signal = Literal["traces", "metrics"]


class ExportCounts:
    """
    Spans and metric points by signal. With several exporters of a signal each item counts once for each of them.

    Zero from the start for a signal that is exported, so that a rate of failures exists before the first one.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        """Accepted by the receiver."""
        self.failed: Counter[str] = Counter()
        """Given to the exporter and lost: refused, or not accepted in time."""
        self.dropped: Counter[str] = Counter()
        """Never given to the exporter, because the queue before it was full."""

    def observe(self, signal: Signal) -> None:
        """Begin to count a signal."""
        for counts in (self.sent, self.failed, self.dropped):
            counts[signal] += 0
