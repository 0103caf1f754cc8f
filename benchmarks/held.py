"""
Who holds a server's interpreter lock: samples of `py-spy record --gil`, by the package that a thread was in.

`py-spy` is no part of the development environment: `pip install py-spy` beforehand, or skip the profile.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

OWNERS = {"ai-otel": re.compile(r"[/(]ai_otel/"), "OpenTelemetry SDK": re.compile(r"[/(]opentelemetry/")}
"""Whose a frame is, by its file; other packages are the server's."""
RATE = 500
"""Samples per second."""


@contextmanager
def sampling(pid: int, file: Path, seconds: float) -> Iterator[None]:
    """Sample a process for so many seconds while the block runs."""
    command = shutil.which("py-spy")
    if command is None:
        raise SystemExit("py-spy is not on PATH; next: pip install py-spy, or run without --profile")
    options = ["--gil", "--threads", "--full-filenames", "--format", "raw", "--rate", str(RATE), "--nolineno"]
    process = subprocess.Popen(
        [command, "record", *options, "--duration", str(int(seconds)), "--output", str(file), "--pid", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.wait(seconds + 30)


def samples(text: str) -> Iterator[tuple[list[str], int]]:
    """The stacks of py-spy's raw format, outermost frame first, and how often each was seen."""
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if count.isdecimal():
            yield stack.split(";"), int(count)


def owner(stack: Iterable[str]) -> str:
    """
    The package in which a thread was.

    A hook wraps functions of the server, and calls them: the last frames decide, from the innermost outwards, until one
    is of the server. Frames of the standard library belong to who called them.
    """
    for frame in reversed(list(stack)):
        for name, pattern in OWNERS.items():
            if pattern.search(frame):
                return name
        if "site-packages/" in frame:
            return "the server"
    return "the server"


def shares(text: str) -> dict[str, float]:
    """Of all samples in which a thread held the lock, the part of each owner."""
    found: Counter[str] = Counter()
    for stack, count in samples(text):
        found[owner(stack)] += count
    total = sum(found.values())
    return {name: count / total for name, count in found.most_common()}


def innermost(text: str, wanted: str, most: int = 12) -> list[tuple[str, float]]:
    """The functions of an owner in which the lock was held most often, with their part of all samples."""
    found: Counter[str] = Counter()
    total = 0
    for stack, count in samples(text):
        total += count
        if owner(stack) == wanted:
            found[next(frame for frame in reversed(stack) if OWNERS[wanted].search(frame))] += count
    return [(frame, count / total) for frame, count in found.most_common(most)]
