"""Which common metrics an engine has, from the library or its metrics endpoint, and which flag adds the others."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ai_otel.contract import Engine, MetricMapping, load
from ai_otel.contract.page import read_page, skipped
from ai_otel.doctor.export.reach import classify
from ai_otel.doctor.finding import Finding, Level
from ai_otel.inputs.shown import shown

PAGE_LIMIT_BYTES = 64 * 1024 * 1024
_PAGE_LIMIT_S = 20.0
_MOST_NAMED = 5


def check_contract(engines: frozenset[str], flags: frozenset[str] | None = None) -> Iterator[Finding]:
    """The metrics that each engine exposes, that a flag adds, and that it lacks; `flags` are those of its process."""
    for name in sorted(engines):
        engine = load().engines.get(name)
        if engine is not None:
            yield from _check_engine(name, engine, flags)


def _check_engine(name: str, engine: Engine, flags: frozenset[str] | None) -> Iterator[Finding]:
    library = {row["metric"]: row.get("needs", "") for row in engine["library"]}
    page: dict[str, str] = {}
    for row in engine["metrics"]:
        page.setdefault(row["to"], row.get("needs", ""))
    free = [metric for metric in load().common if "" in (library.get(metric), page.get(metric))]
    only_page = [metric for metric in free if library.get(metric) != ""]
    known = {**page, **library, **dict.fromkeys(free, "")}
    where = f"{len(free) - len(only_page)} of {len(load().common)} common metrics from the library"
    says = f"{where}, {len(only_page)} more from its {engine['page']['path']} endpoint" if only_page else where
    yield Finding("metrics", name, Level.OK, says, details={"library": sorted(library), "page": sorted(page)})
    for flag, metrics in _by_flag(known).items():
        yield _flag(name, flag, metrics, flags)
    absent = [metric for metric in load().common if metric not in known]
    if absent:
        says = f"{engine['title']} does not expose: {_listed(absent)}"
        yield Finding("metrics", f"{name} absent", Level.NOTE, says, details={"metrics": absent})


def _by_flag(known: Mapping[str, str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = defaultdict(list)
    for metric in load().common:
        if known.get(metric):
            flags[known[metric]].append(metric)
    return flags


def _flag(name: str, flag: str, metrics: list[str], flags: frozenset[str] | None) -> Finding:
    details = {"flag": flag, "metrics": metrics}
    if flags is not None and flag.partition("=")[0] in flags:
        return Finding("metrics", f"{name} {flag}", Level.OK, f"is given: {_listed(metrics)}", details=details)
    return Finding("metrics", f"{name} {flag}", Level.NOTE, f"turns on {_listed(metrics)}", details=details)


def _listed(metrics: list[str]) -> str:
    return ", ".join(metrics)


# An engine's metrics endpoint.


class Scrape(NamedTuple):
    """The metric names of an endpoint, and those that have a value."""

    declared: frozenset[str]
    valued: frozenset[str]


def check_endpoint(url: str) -> Iterator[Finding]:
    """Scrape the endpoint, recognise its engine, and check each common metric."""
    try:
        text = fetch(url)
    except urllib.error.HTTPError as error:
        yield Finding("metrics", url, Level.WRONG, f"answers {error.code} {error.reason}", _after_status(error.code))
        return
    except ValueError as error:
        yield Finding("metrics", url, Level.WRONG, str(error), "Write it like http://localhost:8000/metrics.")
        return
    except OSError as error:
        reach = classify(error)
        says = f"cannot be read: {reach.value if reach else shown(error)}"
        yield Finding("metrics", url, Level.WRONG, says, "Is the server up, and is this the port of its API?")
        return
    try:
        page = parse(text)
    except ValueError as error:
        yield Finding(
            "metrics",
            url,
            Level.WRONG,
            f"is not in Prometheus text format: {error}",
            "Most engines have it at /metrics.",
        )
        return
    yield from _compared(url, page, text)


def fetch(url: str) -> str:
    """The response of an endpoint; `url` is http or https. Raises `OSError`, or `ValueError` for a malformed URL."""
    try:
        content = _read(url)
    except (ValueError, http.client.InvalidURL):
        # The message would repeat a part of the URL, be it a password.
        raise ValueError("is no URL") from None
    except http.client.HTTPException as error:
        raise OSError(f"its response is not HTTP: {type(error).__name__}") from error
    return content.decode("utf-8", errors="replace")


def _read(url: str) -> bytes:
    deadline, content = time.monotonic() + _PAGE_LIMIT_S, bytearray()
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http and https only, checked by the command
        while piece := answer.read1(65536):
            content += piece
            if len(content) > PAGE_LIMIT_BYTES or time.monotonic() > deadline:
                raise OSError(f"more than {PAGE_LIMIT_BYTES >> 20} MiB, or not complete after {_PAGE_LIMIT_S:g} s")
    return bytes(content)


def _after_status(status: int) -> str:
    hints = [
        f"{engine['title']}: {engine['page']['absent']}"
        for engine in load().engines.values()
        if engine["page"]["needs"]
    ]
    return " ".join(hints) if status in (404, 501) else "See the server's log."


def parse(text: str) -> Scrape:
    """The names in Prometheus text format; raises `ValueError` for any other text."""
    from prometheus_client.parser import text_string_to_metric_families

    declared, valued = set[str](), set[str]()
    for family in text_string_to_metric_families(text):
        names = {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
        names |= {sample.name for sample in family.samples}
        declared |= names
        valued |= names if family.samples else set()
    return Scrape(frozenset(declared), frozenset(valued))


def _compared(url: str, page: Scrape, text: str) -> Iterator[Finding]:
    engines = load().engines
    counts = {name: len({row["native"] for row in engines[name]["metrics"]} & page.declared) for name in engines}
    name = max(counts, key=lambda each: counts[each])
    if not counts[name]:
        hints = " ".join(f"{engine['title']}: {engine['page']['absent']}" for engine in engines.values())
        yield Finding("metrics", url, Level.WRONG, "exposes no metric of a known engine", hints)
        return
    rows = [_one(metric, engines[name], page) for metric in load().common]
    here = sum(1 for row in rows if row.details["state"] == "present")
    says = f"{engines[name]['title']}: {here} of {len(rows)} common metrics"
    yield Finding("metrics", url, Level.OK, says, details={"engine": name, "present": here, "of": len(rows)})
    yield from rows
    yield from _skipped(url, name, text)


def _skipped(url: str, name: str, text: str) -> Iterator[Finding]:
    """Source metrics that are there and that the Collector cannot use."""
    lost = list(skipped(load(), name, read_page(text)))
    if lost:
        says = f"cannot be used: {'; '.join(f'{each.native} {each.says}' for each in lost[:_MOST_NAMED])}"
        more = f"; and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        details = {each.native: each.reason for each in lost}
        next_step = f"All of them: ai-otel collector explain {name} {url}"
        yield Finding("metrics", f"{url} skipped", Level.NOTE, says + more, next_step, {"skipped": details})


def _one(metric: str, engine: Engine, page: Scrape) -> Finding:
    natives = [row for row in engine["metrics"] if row["to"] == metric]
    here = [row["native"] for row in natives if row["native"] in page.valued and row.get("unless") not in page.valued]
    if here:
        details = {"state": "present", "natives": here}
        return Finding("metrics", metric, Level.OK, " + ".join(here), details=details)
    return _missing(metric, engine, natives, page)


def _missing(metric: str, engine: Engine, natives: list[MetricMapping], page: Scrape) -> Finding:
    flags = sorted({row["needs"] for row in natives if row.get("needs")})
    library = any(row["metric"] == metric for row in engine["library"])
    if any(row["native"] in page.declared for row in natives):
        state, says, next_step = "no value yet", "no value yet: it appears with the first request", ""
    elif flags:
        state, says, next_step = "off", f"off without {' or '.join(flags)}", ""
    elif natives:
        state, says = (
            "absent",
            f"absent: {engine['title']} {engine['inventory']['version']} has it as {natives[0]['native']}",
        )
        next_step = f"{engine['page']['absent']} Else compare the engine's version."
    elif library:
        state, says, next_step = "library", "not exposed by the endpoint; the library measures it", ""
    else:
        state, says, next_step = "not exposed", f"{engine['title']} does not expose it", ""
    return Finding("metrics", metric, Level.NOTE, says, next_step, {"state": state, "flags": flags})
