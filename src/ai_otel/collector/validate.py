"""Checks a configuration by the rules of this project, and by a Collector's own `validate`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ai_otel.collector.rules import violations

COLLECTORS = ("ai-otel-collector", "otelcol-contrib")


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

    Raises `OSError`, `UnicodeDecodeError` or `yaml.YAMLError` if the file cannot be read.
    """
    import yaml

    text = file.read_text(encoding="utf-8")
    return list(violations(yaml.safe_load(text), local="LOCAL" in text))


def ask_collector(file: Path, chosen: Path | None) -> Verdict:
    """Have a Collector validate the file: `chosen`, or the first of `COLLECTORS` on PATH."""
    program = str(chosen) if chosen else next(_on_path(), None)
    if program is None or (chosen and not chosen.exists()):
        name = chosen or " or ".join(COLLECTORS)
        raise NoCollectorError(f"{name} not found; `make collector` in a checkout builds one, --collector names one")
    done = subprocess.run(  # noqa: S603 - the Collector that the user named, or the one on PATH
        [program, "validate", "--config", str(file)], capture_output=True, text=True, check=False
    )
    return Verdict(program, done.returncode == 0, (done.stdout + done.stderr).strip())


def _on_path() -> Iterator[str]:
    return filter(None, map(shutil.which, COLLECTORS))
