"""Parses `slo.yaml`, and rejects objectives that no histogram can measure."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ai_otel.contract import load

LATENCIES = {
    "first_token": "gen_ai.server.time_to_first_token",
    "output_token": "gen_ai.server.time_per_output_token",
    "token_interval": "ai_otel.token.interval",
}
"""Objective -> the histogram that measures it."""
ERRORS, GOODPUT = "errors", "goodput"
OBJECTIVES = (*LATENCIES, ERRORS, GOODPUT)
# Below four weeks the slow alert would fire on what the budget allows; above, its windows are too short to be slow.
SHORTEST_DAYS, LONGEST_DAYS = 28, 92

_KEYS = ("name", "selector", "window", "objectives", "labels", "alert_labels", "runbook_url")
_NEEDED = ("name", "selector", "objectives")
_TAKEN = ("le", "error_type")  # the rules' own
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class SloError(ValueError):
    """The file asks for what cannot be measured; the message says what can."""


@dataclass(frozen=True)
class Objective:
    """One objective: `target` is the share (0 to 1) of good events, `threshold_s` the bound that a good one keeps."""

    name: str
    target: Decimal
    threshold_s: float | None = None
    single_choice: bool = False

    @property
    def budget(self) -> Decimal:
        """The share of events that may be bad."""
        return 1 - self.target


@dataclass(frozen=True)
class Slo:
    """The objectives of one service."""

    name: str
    selector: Mapping[str, str]
    window_days: int
    objectives: Mapping[str, Objective]
    labels: Mapping[str, str]
    alert_labels: Mapping[str, str]
    runbook_url: str | None


def parsed(tree: Any) -> Slo:
    """What a file says, checked; `tree` is its YAML."""
    top = _mapping(tree, "the file")
    _known(top, _KEYS, "the file")
    for key in _NEEDED:
        if not top.get(key):
            raise SloError(f"{key} is missing; needed are {', '.join(_NEEDED)}")
    name = top["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SloError(
            f"name: {name!r} is no name; it takes up to 50 lower-case letters, digits and dashes, a letter first"
        )
    url = top.get("runbook_url")
    if url is not None and not isinstance(url, str):
        raise SloError(f"runbook_url: {url!r} is no text")
    return Slo(
        name=name,
        selector=_labels(top["selector"], "selector"),
        window_days=_days(top.get("window", "30d")),
        objectives=_objectives(top["objectives"]),
        labels=_texts(top.get("labels", {}), "labels"),
        alert_labels=_labels(top.get("alert_labels", {}), "alert_labels"),
        runbook_url=url,
    )


def bounds(objective: str) -> list[float]:
    """The bucket bounds in seconds of the histogram of an objective: the possible thresholds."""
    (metric,) = (each for each in load().metrics if each.name == LATENCIES[objective])
    return list(metric.buckets or ())


def _objectives(given: Any) -> dict[str, Objective]:
    trees = _mapping(given, "objectives")
    _known(trees, OBJECTIVES, "objectives")
    found = {name: _objective(name, trees[name]) for name in OBJECTIVES if name in trees}
    if GOODPUT in found:
        missing = [name for name in ("first_token", "output_token") if name not in found]
        if missing:
            raise SloError(f"goodput needs the thresholds of first_token and output_token; add {' and '.join(missing)}")
    return found


def _objective(name: str, given: Any) -> Objective:
    where = f"objectives.{name}"
    tree = _mapping(given, where)
    needed = ("threshold", "objective") if name in LATENCIES else ("objective",)
    _known(tree, (*needed, "single_choice") if name == GOODPUT else needed, where)
    for key in needed:
        if key not in tree:
            raise SloError(f"{where} has no {key}; it needs {' and '.join(needed)}")
    single = tree.get("single_choice", False)
    if not isinstance(single, bool):
        raise SloError(f"{where}.single_choice: {single!r} is neither true nor false")
    threshold_s = _threshold(name, tree["threshold"]) if name in LATENCIES else None
    return Objective(name, _target(tree["objective"], where), threshold_s, single)


def _target(given: Any, where: str) -> Decimal:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 < given < 100:
        raise SloError(f"{where}.objective: {given!r} is no share in percent, above 0 and below 100, such as 99.5")
    return Decimal(str(given)) / 100


def _threshold(name: str, given: Any) -> float:
    """The bucket bound that a threshold names: a histogram knows shares at its bounds only."""
    match = _DURATION.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise SloError(f"objectives.{name}.threshold: {given!r} is no duration; write one such as 250ms or 1s")
    wanted_s = Decimal(match[1]) / (1000 if match[2] == "ms" else 1)
    known = bounds(name)
    for bound in known:
        if Decimal(str(bound)) == wanted_s:
            return bound
    at = bisect(known, float(wanted_s))
    nearest = " and ".join(_seconds(bound) for bound in known[max(0, at - 1) : at + 1])
    what = "bounds are" if 0 < at < len(known) else "bound is"
    raise SloError(
        f"objectives.{name}.threshold: {given} is no bucket bound of {LATENCIES[name]}; the nearest {what} {nearest}"
    )


def _seconds(bound: float) -> str:
    exact = Decimal(str(bound))
    return f"{exact.normalize():f}s" if exact >= 1 else f"{(exact * 1000).normalize():f}ms"


def _days(given: Any) -> int:
    match = re.fullmatch(r"(\d{1,4})d", given) if isinstance(given, str) else None
    days = int(match[1]) if match else 0
    if not SHORTEST_DAYS <= days <= LONGEST_DAYS:
        raise SloError(f"window: {given!r} is not between {SHORTEST_DAYS}d and {LONGEST_DAYS}d; 30d is usual")
    return days


def _labels(given: Any, where: str) -> dict[str, str]:
    labels = _texts(given, where)
    for name in labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            dashed = re.sub(r"\W", "_", name)
            raise SloError(f"{where}: {name!r} is no label of Prometheus; there it is called {dashed.lstrip('_')}")
        if name in _TAKEN or name.startswith("sloth_"):
            raise SloError(f"{where}: {name} is set by the rules themselves; leave it out")
    return labels


def _texts(given: Any, where: str) -> dict[str, str]:
    tree = _mapping(given, where)
    for name, value in tree.items():
        if not isinstance(value, str) or not value:
            raise SloError(f"{where}.{name}: {value!r} is no text; put it in quotes")
    return tree


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise SloError(f"{where} is no mapping of names to values; see collector-config/kubernetes/slo/slo.yaml")
    return given


def _known(tree: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in tree:
        if key not in known:
            raise SloError(f"{where} has no key {key}; known are {', '.join(known)}")
