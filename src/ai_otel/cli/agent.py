"""`ai-otel agent`: on a Kubernetes node, the values of every GPU, and which pod holds it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from typing import Any

_DESCRIPTION = """\
Sends the values of every GPU of this node, each once, and which container holds it (ai_otel.gpu.allocation).
It asks for no GPU and needs no privilege: mount /var/lib/kubelet/pod-resources, and set K8S_NODE_NAME.

  ai-otel agent            run until it is told to end; where telemetry goes, the OTEL_* variables say
  ai-otel agent --once     show what it sees, and end

Each option is also a variable, such as AI_OTEL_AGENT_INTERVAL; the option wins.
"""

_OPTIONS = {
    "interval": ("SECONDS", "between two questions to the kubelet; default 15"),
    "kubelet": ("DIR", "where kubelet.sock is; default /var/lib/kubelet/pod-resources"),
    "pods-api": ("DIR", "where pods-api.sock is, if the kubelet has it; default /var/lib/kubelet/pods-api"),
    "listen": ("HOST:PORT", "where /healthz is served; default 0.0.0.0:13134"),
    "resources": ("NAMES", "resource names and DRA drivers that are accelerators, comma-separated"),
    "replicas": ("HOW", "how the device plugin shares a GPU: time_slicing (default) or mps"),
}


def add_parser(subparsers: Any) -> None:
    """Add `agent` to the command line."""
    parser = subparsers.add_parser(
        "agent",
        help="on a Kubernetes node: the values of every GPU, and which pod holds it",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="show what it sees as a table, and end")
    for name, (metavar, summary) in _OPTIONS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=summary)
    parser.add_argument(
        "--resource-slices", action="store_const", const=True, help="map resource claims (DRA), by the API server"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C; with `--once`, 0 where it sees a device."""
    from ai_otel.agent.node import Agent
    from ai_otel.settings import Environment, Settings, SettingsError

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    names = [*(name.replace("-", "_") for name in _OPTIONS), "resource_slices"]
    given = {f"agent_{name}": getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        settings = Settings.from_environment(**given)
    except SettingsError as error:
        print(f"ai-otel agent: {error}", file=sys.stderr)
        return 2
    agent = Agent(settings, Environment.read())
    return _once(agent) if arguments.once else _serve(agent, settings.agent_listen)


def _once(agent: Any) -> int:
    from ai_otel.agent.table import collect, render

    logging.getLogger("ai_otel").setLevel(logging.CRITICAL)  # the table says it all
    snapshot, view = collect(agent)
    print(render(snapshot, view))
    return 0 if snapshot.samples else 1


def _serve(agent: Any, listen: str) -> int:
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    try:
        agent.start()
    except OSError as error:
        print(f"ai-otel agent: {listen} cannot be listened on: {error}; choose another with --listen", file=sys.stderr)
        return 1
    try:
        logging.getLogger("ai_otel").setLevel(logging.INFO)
        logging.getLogger("ai_otel").info(
            "ai-otel: the agent of node %s runs; http://localhost:%d/healthz says how",
            agent.node or "(unnamed)",
            agent.port,
        )
        told_to_end.wait()
    finally:
        agent.stop()
    return 0
