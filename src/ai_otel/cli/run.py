"""`ai-otel run -- CMD`: runs a server, and every Python process that it starts, with telemetry."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

from ai_otel import activation
from ai_otel.inputs.shown import shown

_DESCRIPTION = """\
Run a server with telemetry. Everything after `--` is your command, unchanged:

  ai-otel run -- vllm serve MODEL --port 8000
  ai-otel run -- python my_server.py

Child processes are included. OpenTelemetry's variables set the destination:
  OTEL_EXPORTER_OTLP_ENDPOINT   default http://localhost:4318
  OTEL_EXPORTER_OTLP_PROTOCOL   http/protobuf (default) or grpc
  OTEL_SERVICE_NAME             default: the engine's name
"""


def add_parser(subparsers: Any) -> None:
    """Add `run` to the command line."""
    parser = subparsers.add_parser(
        "run",
        help="run a server with telemetry",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command to run")


def run(arguments: argparse.Namespace) -> int:
    """Replace this process with the command. Returns only if the command cannot be started."""
    words: Sequence[str] = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        print("ai-otel run: nothing to run. Write: ai-otel run -- vllm serve MODEL", file=sys.stderr)
        return 2
    program = shutil.which(words[0])
    if program is None:
        print(f"ai-otel run: {shown(words[0])}: no such command. Is it installed in this environment?", file=sys.stderr)
        return 127
    activate(os.environ)
    try:
        os.execv(program, list(words))
    except OSError as error:
        print(f"ai-otel run: cannot start {shown(shlex.join(words))}: {shown(error)}", file=sys.stderr)
        return 126


def activate(environment: MutableMapping[str, str]) -> None:
    """Activate ai-otel in every Python started with this environment, by PYTHONPATH and by the `.pth` file."""
    environment["AI_OTEL_ENABLED"] = "true"
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if activation.DIRECTORY not in path:
        environment["PYTHONPATH"] = os.pathsep.join([activation.DIRECTORY, *path])
