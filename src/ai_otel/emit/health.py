"""Metrics of ai-otel itself: lost records, failed hooks, open records."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.export.counts import ExportCounts
from ai_otel.instruments import observable


class Records(Protocol):
    """The recorder's counts."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Lost records by reason."""

    @property
    def open_count(self) -> int:
        """Records that are open now."""


class Failures(Protocol):
    """The guards' counts."""

    @property
    def errors(self) -> Mapping[str, int]:
        """Failures by hook."""

    @property
    def disabled(self) -> Collection[str]:
        """Hooks that are switched off."""


def observe_health(
    meter: Meter, records: Records, failures: Failures, exports: Callable[[], ExportCounts | None]
) -> None:
    """Observe the recorder, the guards, and what became of what was exported."""

    def dropped() -> Iterator[Observation]:
        for reason, count in list(records.dropped.items()):
            yield Observation(count, {semconv.AI_OTEL_DROP_REASON: reason})

    def is_open() -> Iterator[Observation]:
        yield Observation(records.open_count)

    def errors() -> Iterator[Observation]:
        for name, count in list(failures.errors.items()):
            yield Observation(count, {semconv.AI_OTEL_HOOK_NAME: name})

    def disabled() -> Iterator[Observation]:
        for name in sorted(failures.disabled):
            yield Observation(1, {semconv.AI_OTEL_HOOK_NAME: name})

    observable(meter, semconv.AI_OTEL_RECORD_DROPPED, dropped)
    observable(meter, semconv.AI_OTEL_RECORD_OPEN, is_open)
    observable(meter, semconv.AI_OTEL_HOOK_ERRORS, errors)
    observable(meter, semconv.AI_OTEL_HOOK_DISABLED, disabled)
    observe_exports(meter, exports)


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
