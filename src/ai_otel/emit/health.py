"""Metrics of ai-otel itself: lost records, failed hooks, open records."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.export.counts import ExportCounts
from ai_otel.instruments import observable


class Health(Protocol):
    """Counts that describe the state of ai-otel itself."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Lost records by reason."""

    @property
    def open_count(self) -> int:
        """Records that are open now."""

    @property
    def exports(self) -> ExportCounts | None:
        """What became of what was exported; `None` where the exporters are the user's."""

    @property
    def hook_errors(self) -> Mapping[str, int]:
        """Failures by hook."""

    @property
    def hooks_disabled(self) -> frozenset[str]:
        """Hooks that are switched off."""


def observe_health(meter: Meter, health: Health) -> None:
    """Observe the recorder and the guards."""

    def dropped() -> Iterator[Observation]:
        for reason, count in list(health.dropped.items()):
            yield Observation(count, {semconv.AI_OTEL_DROP_REASON: reason})

    def is_open() -> Iterator[Observation]:
        yield Observation(health.open_count)

    def errors() -> Iterator[Observation]:
        for name, count in list(health.hook_errors.items()):
            yield Observation(count, {semconv.AI_OTEL_HOOK_NAME: name})

    def disabled() -> Iterator[Observation]:
        for name in sorted(health.hooks_disabled):
            yield Observation(1, {semconv.AI_OTEL_HOOK_NAME: name})

    observable(meter, semconv.AI_OTEL_RECORD_DROPPED, dropped)
    observable(meter, semconv.AI_OTEL_RECORD_OPEN, is_open)
    observable(meter, semconv.AI_OTEL_HOOK_ERRORS, errors)
    observable(meter, semconv.AI_OTEL_HOOK_DISABLED, disabled)
    observe_exports(meter, lambda: health.exports)


def observe_exports(meter: Meter, counts: Callable[[], ExportCounts | None]) -> None:
    """Observe our own exporters; nothing where there are none."""

    def exported(choose: Callable[[ExportCounts], Counter[str]]) -> Iterator[Observation]:
        known = counts()
        for signal, count in list(choose(known).items()) if known is not None else ():
            yield Observation(count, {semconv.AI_OTEL_EXPORT_SIGNAL: signal})

    for metric, choose in (
        (semconv.AI_OTEL_EXPORT_SENT, lambda counts: counts.sent),
        (semconv.AI_OTEL_EXPORT_FAILED, lambda counts: counts.failed),
        (semconv.AI_OTEL_EXPORT_DROPPED, lambda counts: counts.dropped),
    ):
        observable(meter, metric, functools.partial(exported, choose))
