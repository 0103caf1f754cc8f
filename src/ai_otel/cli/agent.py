"""`ai-otel agent`: metrics of every GPU of a Kubernetes node, and which pod holds it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from ai_otel.inputs.shown import shown
from ai_otel.settings import Environment, Settings, SettingsError

_DESCRIPTION = """\
Exports the metrics of every GPU of this node, and which container holds it (ai_otel.gpu.allocation).
It requests no GPU and needs no privilege: mount /var/lib/kubelet/pod-resources, and set K8S_NODE_NAME.

  ai-otel agent            run until SIGTERM; the OTEL_* variables configure the exporters
  ai-otel agent --once     print the devices and their holders, and exit

Each option is also a variable, such as AI_OTEL_AGENT_INTERVAL; the option wins.
"""

_PREFIX = "agent_"
_METAVARS = {
    "interval": "SECONDS",
    "kubelet": "DIR",
    "pods_api": "DIR",
    "listen": "HOST:PORT",
    "resources": "NAMES",
    "replicas": "HOW",
}


def add_parser(subparsers: Any) -> None:
    """Add `agent` to the command line."""
    parser = subparsers.add_parser(
        "agent",
        help="on a Kubernetes node: metrics of every GPU, and which pod holds it",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="print the devices and their holders as a table, and exit")
    for setting in _settings():
        name = setting.name.removeprefix(_PREFIX)
        summary = setting.metadata["doc"].removeprefix("`ai-otel agent`: ").replace("`", "").rstrip(".")
        if isinstance(setting.default, bool):
            kind: dict[str, Any] = {"action": "store_const", "const": True}
        else:
            kind, summary = {"metavar": _METAVARS[name]}, f"{summary} (default: {_shown(setting.default)})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=summary, **kind)


def _settings() -> Iterator[Field[Any]]:
    return (field for field in fields(Settings) if field.name.startswith(_PREFIX))


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C. With `--once`, returns 0 if a device was found."""
    from ai_otel.agent.node import Agent

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    names = [setting.name.removeprefix(_PREFIX) for setting in _settings()]
    given = {_PREFIX + name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
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
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        agent.start()
    except OSError as error:
        print(
            f"ai-otel agent: {shown(listen)} cannot be listened on: {shown(error)}; choose another with --listen",
            file=sys.stderr,
        )
        return 1
    try:
        logging.getLogger("ai_otel").setLevel(logging.INFO)
        logging.getLogger("ai_otel").info(
            "ai-otel: the agent of node %s runs; http://localhost:%d/healthz says how",
            agent.node or "(unnamed)",
            agent.port,
        )
        stopped.wait()
    finally:
        agent.stop()
    return 0
