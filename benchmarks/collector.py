"""
What the Collector pipelines cost: `python benchmarks/collector.py [--quick]`, about 7 minutes.

Spans: the stateful gateway, with redaction and tail sampling on, beside a plain otlp → otlp pipeline of the same
binary, in turn within one run. The figure is spans per second of CPU time of that one process, so that neither
the load generator nor the receiver behind it is in the figure. Scrapes: one Collector that scrapes and normalises 200
simulated vLLM endpoints every 10 s; its CPU time as a share of one core, and its memory when it has settled.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from harness.collector.cost import SPANS, TRACES, UNTIL_DECIDED_S, WAIT, Traffic  # noqa: E402
from harness.collector.process import Collector, Pages, composed, running  # noqa: E402

PAGES = 200
KINDS = ("small spans", "prompts of 8 kB, where prompts belong")


# ---------------------------------------------------------------- processes


def memory_mib(collector: Collector) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{collector.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def receiver_only() -> dict[str, Any]:
    """Where everything ends."""
    return {
        "extensions": {"health_check": {"endpoint": "${env:AI_OTEL_HEALTH_LISTEN}"}},
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": "${env:AI_OTEL_OTLP_GRPC}"}}}},
        "exporters": {"nop": {}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "extensions": ["health_check"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["nop"]}},
        },
    }


def stateful(*features: str) -> dict[str, Any]:
    """The stateful gateway with these features; on loopback, its queue in memory like the plain one's."""
    tree = composed(
        role="gateway_stateful", features=("local", *features), without=("persistence",), backends=("otlp",)
    )
    tree["exporters"]["otlp_grpc/backend"]["tls"] = {"insecure": True}
    return tree


def plain() -> dict[str, Any]:
    """Receiver, memory limiter, exporter with the same queue and batches: the least that a gateway does."""
    tree = stateful()
    pipeline = {"receivers": ["otlp"], "processors": ["memory_limiter"], "exporters": ["otlp_grpc/backend"]}
    tree["service"]["pipelines"] = {"traces": pipeline}
    tree.pop("connectors", None)
    tree["processors"] = {"memory_limiter": tree["processors"]["memory_limiter"]}
    return tree


# ---------------------------------------------------------------- spans


class Load:
    """Posts traces without end, from a few connections."""

    def __init__(self, port: int, traffic: Traffic, seconds: float, connections: int = 4) -> None:
        self.accepted = 0
        self._lock = threading.Lock()
        threads = [threading.Thread(target=self._post, args=(port, traffic, seconds)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post(self, port: int, traffic: Traffic, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        end = time.monotonic() + seconds
        sent = 0
        while time.monotonic() < end:
            connection.request("POST", "/v1/traces", traffic.request(), {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            response.read()
            sent += response.status == http.HTTPStatus.OK
            if response.status != http.HTTPStatus.OK:
                time.sleep(0.05)
        with self._lock:
            self.accepted += sent * SPANS
        connection.close()


@contextlib.contextmanager
def gateway(tree: dict[str, Any], directory: Path, sink: Collector) -> Iterator[Collector]:
    """A gateway that sends to `sink`."""
    environment = {**WAIT, "AI_OTEL_BACKEND_ENDPOINT": f"127.0.0.1:{sink.ports['grpc']}"}
    with running(tree, directory, environment) as collector:
        yield collector


def spans_a_cpu_second(tree: dict[str, Any], directory: Path, traffic: Traffic, seconds: float) -> tuple[float, float]:
    """Spans for each second of CPU time, and the memory at the end."""
    with running(receiver_only(), directory / "sink") as sink, gateway(tree, directory / "gateway", sink) as collector:
        Load(collector.ports["http"], traffic, 1)
        before = collector.cpu_seconds()
        load = Load(collector.ports["http"], traffic, seconds)
        time.sleep(UNTIL_DECIDED_S)  # what still waits, in the queue too, is sent
        return load.accepted / (collector.cpu_seconds() - before), memory_mib(collector)


def spans(rounds: int, seconds: float) -> None:
    """The table of spans."""
    trees = {
        "plain otlp → otlp": plain(),
        "stateful gateway, no features": stateful(),
        "… redaction": stateful("redaction"),
        "… tail sampling": stateful("tail_sampling"),
        "… redaction and tail sampling": stateful("redaction", "tail_sampling"),
    }
    print(f"| spans per second of CPU time (one core) | {' | '.join(KINDS)} | memory |")
    print("|---|---:|---:|---:|")
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {kind: [] for kind in KINDS} for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            for kind in KINDS:
                with tempfile.TemporaryDirectory() as directory:
                    place = Path(directory)
                    found[name][kind].append(spans_a_cpu_second(tree, place, Traffic(TRACES[kind]), seconds))
    for name, by_kind in found.items():
        # What else the machine does makes it worse, never better.
        small, large = (max(rate for rate, _ in by_kind[kind]) for kind in KINDS)
        memory = max(megabytes for _, megabytes in by_kind[KINDS[-1]])
        print(f"| {name} | {small:,.0f} | {large:,.0f} | {memory:.0f} MiB |", flush=True)


# ---------------------------------------------------------------- pages


def pages(seconds: float) -> None:
    """The table of scrapes."""
    page = (ROOT / "tests/engines/vllm/page.prom").read_text()
    rows = []
    for name, engines in (("vLLM's normaliser only", ("vllm",)), ("every normaliser loaded", ())):
        tree = composed(
            role="sidecar", engines=engines, features=("local",), without=("persistence",), backends=("otlp",)
        )
        tree["exporters"]["otlp_grpc/backend"]["tls"] = {"insecure": True}
        job, _ = tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]
        with Pages({f"/{n}": page for n in range(PAGES)}) as served, tempfile.TemporaryDirectory() as directory:
            job["static_configs"] = [
                {
                    "targets": [served.address],
                    "labels": {"ai_otel_engine": "vllm", "instance": f"page-{n}", "__metrics_path__": f"/{n}"},
                }
                for n in range(PAGES)
            ]
            job["scrape_interval"] = "10s"
            rows.append((name, *_watch_pages(tree, Path(directory), served, seconds)))
    case = f"{PAGES} vLLM endpoints of {len(page) // 1024} kB, scraped every 10 s"
    print(f"\n| {case} | of one core | memory | scrapes per second |")
    print("|---|---:|---:|---:|")
    for name, share, memory, rate in rows:
        print(f"| {name} | {share:.1%} | {memory:.0f} MiB | {rate:.1f} |")


def _watch_pages(tree: dict[str, Any], directory: Path, served: Pages, seconds: float) -> tuple[float, float, float]:
    sink_tree = receiver_only()
    sink_tree["service"]["pipelines"] = {"metrics": {"receivers": ["otlp"], "exporters": ["nop"]}}
    with running(sink_tree, directory / "sink") as sink, gateway(tree, directory / "agent", sink) as collector:
        time.sleep(12)
        before, read, began = collector.cpu_seconds(), served.reads, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        share = (collector.cpu_seconds() - before) / took
        return share, memory_mib(collector), (served.reads - read) / took


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python benchmarks/collector.py", description="What the pipelines cost.")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    quick = parser.parse_args().quick
    spans(1 if quick else 3, 2 if quick else 5)
    pages(10 if quick else 40)
    return 0


if __name__ == "__main__":
    sys.exit(main())
