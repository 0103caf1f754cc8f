"""
What ai-otel costs a real server: `python benchmarks/vllm_ab.py [--rounds N] [--profile] [--json FILE]`.

vLLM on a CPU with a tiny model, three servers side by side: without telemetry, with ai-otel, with vLLM's own tracing.
In each round each of them serves the same requests, in an order that rotates; each figure is compared with that of the
server without, in the same round. The interval beside a ratio is the 95 % confidence interval of the mean difference.

Two loads: chat, 16 streams and 16 calls at once; and a server of embeddings, as many requests as it can serve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import children
import held
import load
import otlp
import vllm_servers
from measure import interval
from run import machine
from vllm_servers import VARIANTS, Engine

AT_ONCE = 16
"""Streams, and as many calls."""
TOKENS = 16
PROMPT = "Explain in one sentence how a bicycle stays upright, and list three reasons in order of importance."

ROWS = {
    "throughput": ("requests per second", "/s"),
    "first_p50": ("time to first token, p50", "ms"),
    "first_p99": ("time to first token, p99", "ms"),
    "between_p50": ("between two tokens, p50", "ms"),
    "between_p99": ("between two tokens, p99", "ms"),
    "call_p50": ("a call, p50", "ms"),
    "call_p99": ("a call, p99", "ms"),
    "front": ("CPU of the API server, per request", "ms"),
    "engine": ("CPU of the engine core, per request", "ms"),
}

Clients = Sequence[tuple[int, Sequence[bytes]]]
Round = Mapping[str, Mapping[str, float]]


def chat(count: int) -> Clients:
    """So many chat requests, half of them streams."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    kinds = ({"stream": True}, {"stream": False})
    return [(AT_ONCE, [load.request("/v1/chat/completions", {**body, **kind})] * (count // 2)) for kind in kinds]


def embeddings(count: int) -> Clients:
    """So many requests for one embedding each."""
    return [(2 * AT_ONCE, [load.request("/v1/embeddings", {"model": "tiny", "input": PROMPT})] * count)]


LOADS = {"chat": chat, "embeddings": embeddings}


def measured(engine: Engine, clients: Clients) -> dict[str, float]:
    """One server's part of a round."""
    before = engine.cpu()
    found = asyncio.run(load.drive(engine.port, clients))
    time.sleep(0.3)  # what is emitted soon after the last response belongs to the round
    count = sum(len(requests) for _, requests in clients)
    return found | {name: (seconds - before[name]) / count * 1e3 for name, seconds in engine.cpu().items()}


def rounds_of(servers: Mapping[str, Engine], clients: Clients, rounds: int) -> list[Round]:
    """All rounds; the first, to warm up, is left out."""
    names, found = list(servers), []
    for turn in range(rounds + 1):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        taken = {name: measured(servers[name], clients) for name in order}
        found += [taken] if turn else []
        shown = {name: {key: round(value, 2) for key, value in values.items()} for name, values in taken.items()}
        sys.stderr.write(f"round {turn} of {rounds}: {shown}\n")
    return found


def compared(found: Sequence[Round]) -> list[dict[str, Any]]:
    """One row a figure: the bare server's median, and of the others the ratio and the interval of the difference."""
    rows = []
    for key, (name, unit) in ROWS.items():
        if key not in found[0]["bare"]:
            continue
        others = {}
        for other in (name for name in found[0] if name != "bare"):
            ratios = [ratio(each[other][key], each["bare"][key]) for each in found]
            low, high = interval([each - 1 for each in ratios])
            others[other] = {"ratio": round(statistics.median(ratios), 4), "low": round(low, 4), "high": round(high, 4)}
        bare = float(f"{statistics.median(each['bare'][key] for each in found):.4g}")
        rows.append({"key": key, "name": name, "unit": unit, "bare": bare, "others": others})
    return rows


def ratio(value: float, base: float) -> float:
    """How many times as much; not a number where the other is nothing."""
    return value / base if base else math.nan


def check(engine: Engine, sink: children.Sink, clients: Clients) -> None:
    """Serve, and wait until the span of every request has arrived from ai-otel."""
    sink.get("keep")
    asyncio.run(load.drive(engine.port, clients))
    wanted, deadline = sum(len(requests) for _, requests in clients), time.monotonic() + 30
    bodies: list[dict[str, str]] = []
    while time.monotonic() < deadline:
        time.sleep(1)
        bodies += sink.get("bodies")
        sink.get("keep")
        roots = [span for span in otlp.arrived(bodies, "ai-otel").spans if span["kind"] == 2]
        if len(roots) >= wanted:
            break
    sink.get("bodies")
    if len(roots) != wanted:
        raise SystemExit(f"{len(roots)} request spans of {wanted} requests arrived")


def printed(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of ratios with their intervals."""
    others = list(rows[0]["others"])
    print(f"\n{title}\n  {'':<40}{'bare':>10}   " + "".join(f"{VARIANTS[name]:>32}" for name in others))
    for row in rows:
        cells = []
        for name in others:
            found = row["others"][name]
            low, high = 100 * found["low"], 100 * found["high"]
            cells.append(f"{found['ratio']:>12.3f} ({low:+6.1f} to {high:+6.1f} %)")
        print(f"  {row['name']:<40}{row['bare']:>10.2f} {row['unit']:<2}{''.join(f'{cell:>32}' for cell in cells)}")


def pinned(servers: Mapping[str, Engine], sink: int) -> str:
    """
    Keep the API servers apart from all else, where there are two processors or more; say what was done.

    What serves HTTP has a processor of its own: neither the engine nor the client takes time from it.
    """
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return "Nothing is pinned."
    front, rest = {processors[0]}, set(processors[1:])
    for engine in servers.values():
        engine.pin(front, rest)
    for pid in (0, sink):
        os.sched_setaffinity(pid, rest)
    return f"API servers run on one processor, the engines, the client and the receiver on the other {len(rest)}."


def profiled(engine: Engine, clients: Clients, folder: Path) -> None:
    """Serve once more, and print who held the interpreter lock of the API server."""
    file, seconds = folder / "held.txt", 10.0
    with held.sampling(engine.front, file, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asyncio.run(load.drive(engine.port, clients))
    text = file.read_text()
    print("\nThe interpreter lock of the API server with ai-otel, by who held it")
    print("\n".join(f"  {name:<40}{share:>7.1%}" for name, share in held.shares(text).items()))
    print("\n".join(f"    {frame:<80}{share:>7.1%}" for frame, share in held.innermost(text, "ai-otel")))


def version_of_vllm() -> str:
    """The version of vLLM's distribution, which has another name for CPUs."""
    packages = next((vllm_servers.vllm().python.parents[1] / "lib").glob("python*")) / "site-packages"
    found = {each.name: each.version for each in distributions(path=[str(packages)]) if each.name.startswith("vllm")}
    return next(iter(found.values()), "unknown")


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/vllm_ab.py", description="What ai-otel costs vLLM.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=400, help="of each server in a round")
    parser.add_argument("--load", choices=LOADS, action="append", help="chat, embeddings; both by default")
    parser.add_argument("--tree", type=Path, default=vllm_servers.ROOT, help="the checkout of ai-otel to measure")
    parser.add_argument("--free", action="store_true", help="pin nothing to a processor")
    parser.add_argument("--profile", action="store_true", help="first show who holds the interpreter lock (py-spy)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, for report.py")
    asked = parser.parse_args()
    how = {"rounds": asked.rounds, "requests": asked.requests, "pinning": "Nothing is pinned."}
    result: dict[str, Any] = {"where": machine() | {"vllm": version_of_vllm()}, "how": how, "variants": VARIANTS}
    result["loads"] = {}
    processors = os.sched_getaffinity(0)
    for kind in asked.load or LOADS:
        os.sched_setaffinity(0, processors)
        with (
            tempfile.TemporaryDirectory() as folder,
            children.sink() as sink,
            vllm_servers.running(kind, sink.url, Path(folder), asked.tree.resolve()) as servers,
        ):
            if not asked.free:
                how["pinning"] = pinned(servers, sink.pid)
            check(servers["ai-otel"], sink, LOADS[kind](2 * AT_ONCE))
            if asked.profile:
                profiled(servers["ai-otel"], LOADS[kind](asked.requests // 2), Path(folder))
            rows = compared(rounds_of(servers, LOADS[kind](asked.requests), asked.rounds))
        result["loads"][kind] = rows
        printed(f"{kind}: {asked.rounds} rounds of {asked.requests} requests. {how['pinning']}", rows)
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
