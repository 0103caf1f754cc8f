"""Metrics of the energy accounts: joules and seconds by bucket, the conservation error, the idle power."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.energy.accounts import Account
from ai_otel.instruments import observable

Labels = dict[str, Any]


def observe_energy(
    own: Meter, accounts: Callable[[], Sequence[Account]], undeferred: Callable[[], int] = lambda: 0
) -> None:
    """
    Create the instruments of the energy accounts.

    `own` is the meter of ai-otel's own names. `undeferred` returns the number of requests that were emitted without
    waiting for their energy; it is exported once it is not zero or energy is attributed.
    """
    observable(own, semconv.AI_OTEL_GPU_ENERGY, lambda: _split(accounts(), "energy_j"))
    observable(own, semconv.AI_OTEL_GPU_TIME_METRIC, lambda: _split(accounts(), "time_s"))
    observable(own, semconv.AI_OTEL_GPU_CONSERVATION_ERROR, lambda: _errors_of(accounts()))
    observable(own, semconv.AI_OTEL_GPU_IDLE_POWER, lambda: _floors(accounts()))
    observable(own, semconv.AI_OTEL_ENERGY_UNDEFERRED, lambda: _undeferred(accounts(), undeferred()))


def _account_labels(account: Account) -> Labels:
    device_id, instance_id = account.key
    part = {} if instance_id is None else {semconv.AI_OTEL_GPU_INSTANCE_ID: instance_id}
    return {semconv.HW_ID: device_id, **part}


def _split(accounts: Sequence[Account], name: str) -> Iterator[Observation]:
    for account in accounts:
        for (bucket, model), value in getattr(account, name).items():
            labels = {**_account_labels(account), semconv.AI_OTEL_ENERGY_BUCKET: bucket}
            if model is not None:
                labels[semconv.GEN_AI_REQUEST_MODEL] = model
            yield Observation(value, labels)


def _errors_of(accounts: Sequence[Account]) -> Iterator[Observation]:
    for account in accounts:
        yield Observation(abs(account.conservation_error), {semconv.HW_ID: account.key[0]})


def _undeferred(accounts: Sequence[Account], count: int) -> Iterator[Observation]:
    if accounts or count:
        yield Observation(count)


def _floors(accounts: Sequence[Account]) -> Iterator[Observation]:
    for account in accounts:
        if account.idle_power_w is not None:
            yield Observation(account.idle_power_w, {semconv.HW_ID: account.key[0]})
