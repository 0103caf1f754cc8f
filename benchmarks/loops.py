"""How long an idle event loop is kept from running, where requests end at once and where a batch is exported."""

from __future__ import annotations

from collections.abc import Mapping

from children import Child
from measure import Figure, Series

MEASURED = {"nothing": "nothing observed", "plain": "plain SDK by hand", "ai-otel": "ai-otel"}
EXPORTED = 100
"""Requests whose spans are in the batch that is exported; metrics are exported too."""


def measure(servers: Mapping[str, Child], rounds: int, ends: tuple[int, ...]) -> dict[tuple[str, str, str], Series]:
    """Milliseconds, by case, server and percentile."""
    cases = {f"{count}": (count, False) for count in ends} | {"export": (EXPORTED, True)}
    took: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(rounds):
        for case, (count, export) in cases.items():
            for name in MEASURED:
                seconds = 0.3 + count * 0.0007
                found = servers[name].ask("pause", count=count, seconds=seconds, export=export)
                for share, milliseconds in found.items():
                    took.setdefault((case, name, share), []).append(milliseconds)
    return {key: Series.of(values) for key, values in took.items()}


def figures(took: Mapping[tuple[str, str, str], Series]) -> list[Figure]:
    """Each percentile of each server, and what ai-otel adds to the 99th."""
    found = []
    for case in dict.fromkeys(case for case, _, _ in took):
        what = f"{EXPORTED} requests exported" if case == "export" else f"{int(case):,} requests end"
        for share in ("p50", "p99", "max"):
            for name, title in MEASURED.items():
                found.append(
                    Figure(f"{what}, {share}: {title}", "ms", took[case, name, share], key=f"{share}.{case}.{name}")
                )
        nothing = took[case, "nothing", "p99"]
        plain, own = (took[case, name, "p99"] - nothing for name in ("plain", "ai-otel"))
        found.append(Figure(f"{what}, added to p99: plain SDK by hand", "ms", plain, key=f"added.{case}.plain"))
        found.append(Figure(f"{what}, added to p99: ai-otel", "ms", own, key=f"added.{case}.ai-otel"))
    return found
