"""Which common metrics an engine's metrics endpoint has, and which flag turns on the others."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ai_otel.contract import Engine, load
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
