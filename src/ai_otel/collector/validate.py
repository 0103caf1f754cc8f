"""Checks a configuration by the rules of this project, and by a Collector's own `validate`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ai_otel.collector.rules import violations
from ai_otel.inputs.documents import parse, read_text
from ai_otel.inputs.shown import shown

COLLECTORS = ("ai-otel-collector", "otelcol-contrib")
TIMEOUT_S = 60
MOST_LINES = 100


class NoCollectorError(LookupError):
    """No Collector was found that could validate the file; the message says how to get one."""


class Verdict(NamedTuple):
    """What a Collector says of a configuration."""

    program: str
    accepted: bool
    output: str


def broken_rules(file: Path) -> list[str]:
    """
    The rules of this project that a file breaks, one sentence each.

    Raises `DocumentError` if the file cannot be read.
    """
    text = read_text(file)
    return list(violations(parse(text), local="LOCAL" in text))


def ask_collector(file: Path, chosen: Path | None) -> Verdict:
    """Have a Collector validate the file: `chosen`, or the first of `COLLECTORS` on PATH."""
    program = str(chosen) if chosen else next(_on_path(), None)
    if program is None or (chosen and not chosen.exists()):
        name = chosen or " or ".join(COLLECTORS)
        raise NoCollectorError(
            f"{shown(name)} not found; `make collector` in a checkout builds one, --collector names one"
        )
    try:
        done = subprocess.run(  # noqa: S603 - the Collector that the user named, or the one on PATH
            [program, "validate", "--config", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NoCollectorError(f"{shown(program)} has not answered within {TIMEOUT_S} s") from None
    except OSError as error:
        raise NoCollectorError(f"{shown(program)} cannot be started: {error.strerror}") from None
    lines = (shown(line, 1000) for line in (done.stdout + done.stderr).strip().splitlines()[:MOST_LINES])
    return Verdict(shown(program), done.returncode == 0, "\n".join(lines))


def _on_path() -> Iterator[str]:
    return filter(None, map(shutil.which, COLLECTORS))
