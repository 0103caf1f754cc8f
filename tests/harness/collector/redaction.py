"""The corpus of the redaction tests: reads it, lays it into OTLP, and finds each case again in what came out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.telemetry.otlp_json import MISSING, Tree, any_value, attributes, plain, plain_attributes, span as new_span

CASE = "corpus.case"
"""The attribute by which a case is found again."""

CUT = "¦"
MARKS = re.compile("[«»‹›]")


@dataclass(frozen=True)
class Case:
    """One row."""

    id: str
    kind: str
    where: str
    key: str
    marked: Any
    gone: bool

    @property
    def value(self) -> Any:
        """What is sent."""
        return _leaves(self.marked, lambda text: MARKS.sub("", text))

    @property
    def secrets(self) -> list[str]:
        """What may nowhere be found."""
        found: list[str] = []
        _leaves(self.marked, lambda text: found.extend(re.findall("«(.*?)»", text, re.DOTALL)) or text)
        return [MARKS.sub("", secret) for secret in found]


class _Loader(yaml.SafeLoader):
    """With `!int "4111¦1111"`: a number that is not written as one."""


_Loader.add_constructor("!int", lambda loader, node: int(loader.construct_scalar(node).replace(CUT, "")))


def cases(path: Path) -> list[Case]:
    """The rows of a corpus file."""
    # The file is part of this repository, and the loader is a safe one.
    groups = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    found = []
    for group in groups:
        for where, key, value in group["rows"]:
            marked = _leaves(value, lambda text: text.replace(CUT, ""))
            place = f"{path.stem}-{len(found)}"
            found.append(Case(place, group["kind"], where, key, marked, group.get("gone", False)))
    return found


def _leaves(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_leaves(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _leaves(item, change) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- into OTLP


def _span(case: Case) -> Tree:
    event = {"timeUnixNano": "1", "name": "an event"}
    given = {case.key: case.value}
    more: Tree = {
        "name": {"name": case.value},
        "status": {"status": {"code": 2, "message": case.value}},
        "event": {"events": [{**event, "attributes": attributes(given)}]},
        "event_name": {"events": [{**event, "name": case.value}]},
    }
    return new_span({CASE: case.id, **(given if case.where == "span" else {})}, **more.get(case.where, {}))


def _log(case: Case) -> Tree:
    log = {"timeUnixNano": "1", "body": any_value("a log"), "attributes": attributes({CASE: case.id})}
    if case.where == "log":
        log["attributes"] += attributes({case.key: case.value})
    else:
        log["body"] = any_value(case.value)
    if case.where == "message":
        log["eventName"] = case.key
    return log


def _metric(case: Case) -> Tree:
    point = {"timeUnixNano": "2", "asInt": "1", "attributes": attributes({CASE: case.id, case.key: case.value})}
    return {"name": "corpus.points", "gauge": {"dataPoints": [point]}}


SIGNALS = {"log": "logs", "body": "logs", "message": "logs", "metric": "metrics"}


def requests(corpus: Sequence[Case]) -> Iterator[tuple[str, Tree]]:
    """All of them, as one OTLP request a signal."""
    traces, logs, metrics = (
        [case for case in corpus if SIGNALS.get(case.where, "traces") == signal]
        for signal in ("traces", "logs", "metrics")
    )
    own = [case for case in traces if case.where in ("resource", "scope")]
    spans = [_span(case) for case in traces if case not in own]
    yield (
        "traces",
        {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}, *(_holder(case) for case in own)]},
    )
    yield "logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [_log(case) for case in logs]}]}]}
    yield "metrics", {"resourceMetrics": [{"scopeMetrics": [{"metrics": [_metric(case) for case in metrics]}]}]}


def _holder(case: Case) -> Tree:
    given = attributes({case.key: case.value})
    resource, scope = (given, []) if case.where == "resource" else ([], given)
    return {
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "corpus", "attributes": scope}, "spans": [_span(case)]}],
    }


# ---------------------------------------------------------------- out of it


def arrived(exported: Sequence[Tree]) -> dict[str, Callable[[Case], Any]]:
    """For each case's id, what reads its value from where it stood."""
    return dict(_arrived(exported))


def _arrived(exported: Sequence[Tree]) -> Iterator[tuple[str, Callable[[Case], Any]]]:
    for export in exported:
        for resource in export.get("resourceSpans", []):
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    yield _id(span), lambda case, r=resource, s=scope, x=span: _from_span(case, r, s, x)
        for resource in export.get("resourceLogs", []):
            for log in resource["scopeLogs"][0]["logRecords"]:
                yield _id(log), lambda case, x=log: _get(x, case.key) if case.where == "log" else plain(x["body"])
        for resource in export.get("resourceMetrics", []):
            for metric in resource["scopeMetrics"][0]["metrics"]:
                for point in metric["gauge"]["dataPoints"]:
                    yield _id(point), lambda case, x=point: _get(x, case.key)


def _from_span(case: Case, resource: Tree, scope: Tree, span: Tree) -> Any:
    if case.where == "name":
        return span["name"]
    if case.where == "status":
        return span["status"].get("message", MISSING)
    if case.where == "event_name":
        return span["events"][0]["name"]
    holder = {"resource": resource["resource"], "scope": scope.get("scope", {}), "span": span}.get(case.where)
    return _get(holder if holder is not None else span["events"][0], case.key)


def _id(holder: Tree) -> str:
    return str(_get(holder, CASE))


def _get(holder: Tree, key: str) -> Any:
    return plain_attributes(holder).get(key, MISSING)


# ---------------------------------------------------------------- verdicts


def wrong(case: Case, found: Any) -> str:
    """What is wrong with a positive case; empty when nothing."""
    if case.gone:
        return "" if found is MISSING else "it is still there"
    if found is MISSING:
        return "it is gone altogether"
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    for secret in case.secrets:
        if secret in text or json.dumps(secret, ensure_ascii=False)[1:-1] in text:
            return f"{secret!r} is still there"
    if isinstance(case.marked, int):
        return "" if found == "****" else "the number is still there"
    if isinstance(case.marked, str):
        return "" if re.fullmatch(_rest(case.marked), text, re.DOTALL) else "more, or less, than the secret went"
    lost = [leaf for leaf in _unmarked(case) if leaf not in text]
    return f"{lost} went too" if lost else ""


def _rest(marked: str) -> str:
    """What is left of a text: all but what is marked, and perhaps one character before that."""
    pieces = []
    for index, piece in enumerate(re.split("‹.*?›|«.*?»", marked, flags=re.DOTALL)):
        if index:
            pieces[-1] = f"{re.escape(pieces[-1][:-1])}(?:{re.escape(pieces[-1][-1])})?" if pieces[-1] else ""
            pieces.append(r"(?:\*{4})+")
        pieces.append(piece)
    return "".join([*pieces[:-1], re.escape(pieces[-1])])


def _unmarked(case: Case) -> list[str]:
    """The texts of a nested value that are no secrets, unless they are what an event's body loses anyway."""
    found: list[str] = []
    if case.where != "message":
        _leaves(case.marked, lambda text: found.append(text) or text)
    return [text for text in found if not MARKS.search(text) and not text.startswith("--")]
