"""Which common metrics an engine's metrics endpoint has, which flag turns on the others, and what a page lacks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatchcase

from ai_otel.contract import Engine, load
from ai_otel.contract.page import read_page, skipped
from ai_otel.contract.text import table


def explanation(name: str, engine: Engine) -> Iterator[str]:
    """The metrics endpoint of an engine, how it is scraped, and which common metrics it has, as lines of text."""
    page, version = engine["page"], engine["inventory"]["version"]
    yield f"{engine['title']} ({version})"
    if page["path"]:
        yield f"  endpoint  :{page.get('port')}{page['path']}{', only with ' + page['needs'] if page['needs'] else ''}"
    else:
        yield f"  endpoint  none: it sends OTLP itself{', with ' + page['needs'] if page['needs'] else ''}"
    yield from textwrap.wrap(page["absent"], 110, initial_indent="  without   ", subsequent_indent=" " * 12)
    yield f"  sidecar   ai-otel collector render --role sidecar --engine {name}"
    yield f"  agent     pod annotation ai-otel.io/engine: {name}"
    needs: dict[str, set[str]] = {}
    for row in engine["metrics"]:
        needs.setdefault(row["to"], set()).add(row.get("needs", ""))
    yield from ("", "METRICS", "")
    given = [metric for metric, flags in needs.items() if "" in flags]
    yield from (f"  {metric}" for metric in given)
    behind = [(f"  {metric}", " or ".join(sorted(flags))) for metric, flags in needs.items() if "" not in flags]
    if behind:
        yield from ("", "METRICS THAT NEED A FLAG", "")
        yield from table(behind)
    if engine.get("kind") != "exporter":
        yield from ("", "NOT EXPOSED", "")
        library = {row["metric"] for row in engine["library"]}
        absent = [metric for metric in load().common if metric not in needs]
        yield from (f"  {metric}{'  (measured by the library)' if metric in library else ''}" for metric in absent)


def page_explanation(name: str, engine: Engine, text: str) -> Iterator[str]:
    """What becomes of one page of the engine, as lines of text; raises `ValueError` where it is not such a page."""
    contract, page = load(), read_page(text)
    natives = {row["native"] for row in engine["metrics"]}
    here = {native for native in natives if page.samples.keys() & _names(native)}
    lost = list(skipped(contract, name, page))
    yield f"{engine['title']}: {len(here)} of {len(natives)} source metrics that the mapping knows"
    if lost:
        yield from ("", "NOT USED", "")
        yield from table([(f"  {each.native}", each.metric, each.reason, each.says) for each in lost])
    known = {name for native in natives for name in _names(native)}
    unknown = sorted(family for family in page.samples if family not in known and not _left_out(engine, family))
    if unknown:
        yield from ("", "UNKNOWN TO THE MAPPING", "")
        yield from (f"  {family}" for family in unknown)


def _names(native: str) -> set[str]:
    return {native, *(f"{native}_{end}" for end in ("bucket", "sum", "count"))}


def _left_out(engine: Engine, family: str) -> bool:
    """Whether it is left out on purpose."""
    names = {family, *(family.removesuffix(f"_{end}") for end in ("bucket", "sum", "count"))}
    patterns = [pattern for row in engine["unmapped"] for pattern in row["natives"]]
    if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
        return True
    return any(re.fullmatch(pattern, name) for name in names for pattern in engine["ignore"])
