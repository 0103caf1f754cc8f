"""Samples devices and exports the samples: what the library and the node agent share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ai_otel import semconv
from ai_otel.gpu.metrics import observe
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.snapshot import Snapshot
from ai_otel.instruments import histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter

    from ai_otel.direct.binding import Adapted, BindableHistogram, Bound
    from ai_otel.gpu.source import GpuSource


class GpuMonitor:
    """
    One sampler, and the instruments that read its last snapshot.

    The instruments outlive the sampler: the child of a fork has a user's provider with all of them in it, and needs a
    sampler of its own. `interval_s` is the sampling interval in seconds; `running` finds the span of a request that
    ran at a moment, for exemplars.
    """

    def __init__(self, interval_s: float, running: Callable[[float], Context | None] = lambda _: None) -> None:
        self._interval_s = interval_s
        self._running = running
        self._duration: BindableHistogram | Adapted | None = None
        self._durations: dict[str, Bound] = {}
        """By what was timed."""
        self.sampler: Sampler | None = None

    @property
    def observed(self) -> bool:
        """Whether `observe` has created the instruments."""
        return self._duration is not None

    @property
    def snapshot(self) -> Snapshot:
        """The last sample of all devices; empty before the first, and in a process that does not sample."""
        return self.sampler.snapshot if self.sampler is not None else Snapshot()

    def observe(self, hw: Meter, own: Meter) -> None:
        """Create the instruments. `hw` is the meter of the conventions' names, `own` of ai-otel's."""
        self._duration, self._durations = histogram(own, semconv.AI_OTEL_GPU_PASS_DURATION), {}
        observe(hw, own, lambda: self.snapshot, interval_s=self._interval_s, running=self._running)

    def sample(self, sources: Callable[[], Mapping[str, GpuSource]], **options: Any) -> Sampler:
        """Create the sampler of these sources, not yet started; `options` are those of `Sampler`."""
        self.sampler = Sampler(sources, interval_s=self._interval_s, on_collected=self._record_duration, **options)
        return self.sampler

    def _record_duration(self, kind: str, took_s: float) -> None:
        bound = self._durations.get(kind)
        if bound is None and self._duration is not None:
            bound = self._durations[kind] = self._duration.bind({semconv.AI_OTEL_GPU_PASS: kind})
        if bound is not None:
            bound.record(took_s, None)
