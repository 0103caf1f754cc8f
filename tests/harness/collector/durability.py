"""What tests of loss share: a small disk, a role that sends to known addresses, and a Collector's own account."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.collector.process import Collector, Tree


@contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own size at `directory`; it needs the right to mount."""
    directory.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", directory], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a disk that fills needs the right to mount one: {done.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        # Lazily: a Collector that has just been killed may still be giving the files back.
        subprocess.run(["umount", "-l", directory], check=True)


def fill(directory: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = directory / "ballast"
    handle = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(handle, bytes(4096))
    except OSError:
        return ballast
    finally:
        os.close(handle)


def aimed(tree: Tree, targets: Sequence[str]) -> Tree:
    """The first tier, with addresses in place of the name that a cluster's DNS resolves."""
    for name, exporter in tree["exporters"].items():
        if name.startswith("load_balancing"):
            exporter["resolver"] = {"static": {"hostnames": list(targets)}}
    return tree


def logged(collector: Collector, message: str = "") -> list[dict[str, Any]]:
    """The records of its log whose message holds this text."""
    lines = (line for line in collector.output().splitlines() if line.startswith("{"))
    return [record for record in map(json.loads, lines) if message in record["msg"]]


def dropped(collector: Collector) -> int:
    """How many items its log says that it gave up."""
    return sum(record["dropped_items"] for record in logged(collector, "Dropping data"))


def own(page: str, name: str, **labels: str) -> float:
    """The sum of one of its own metrics over the series with these labels."""
    found = 0.0
    for series, number in re.findall(rf"^{name}(?:_total)?\{{(.*)\}} (\S+)$", page, re.MULTILINE):
        if all(f'{label}="{value}"' in series for label, value in labels.items()):
            found += float(number)
    return found
