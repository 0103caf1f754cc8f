"""Runs the real Prometheus on a configuration, with its OTLP receiver, and asks it."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import parts
from harness.polling import wait_until
from harness.server import end, free_port

Tree = dict[str, Any]


class PrometheusError(RuntimeError):
    """It did not start, or refused a query; the message says why."""


def promtool(*arguments: str | Path) -> str:
    """What it said; it must be content."""
    program = parts.program("prometheus", "bin/promtool")
    assert program is not None, "mark the test with requires(part='prometheus')"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Series:
    """One series of a result: its labels, and its values in the order of time."""

    labels: Mapping[str, str]
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The last value."""
        return self.values[-1]


class Prometheus:
    """One running Prometheus."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """An instant query."""
        asked = {"query": expression, **({} if at is None else {"time": str(at)})}
        return [_series(row) for row in self._data("query", asked)["result"]]

    def query_range(self, expression: str, start: float, end: float, step: float = 1) -> list[Series]:
        """A range query, as a panel asks it."""
        asked = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        return [_series(row) for row in self._data("query_range", asked)["result"]]

    def label_values(self, label: str, selector: str) -> list[str]:
        """What `label_values(selector, label)` of a dashboard's variable gives."""
        values: list[str] = self._data(f"label/{label}/values", {"match[]": selector}, post=False)
        return values

    def exemplars(self, expression: str, start: float, end: float) -> list[Tree]:
        """The exemplars of the series that an expression reads."""
        found = self._data("query_exemplars", {"query": expression, "start": str(start), "end": str(end)})
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def _data(self, path: str, asked: Mapping[str, str], *, post: bool = True) -> Any:
        words = urllib.parse.urlencode(asked)
        url = f"{self.url}/api/v1/{path}" if post else f"{self.url}/api/v1/{path}?{words}"
        request = urllib.request.Request(url, words.encode() if post else None)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as refused:
            raise PrometheusError(f"{refused.code} {refused.read().decode()}\nto {asked}") from refused


def _series(row: Tree) -> Series:
    pairs = row.get("values") or [row["value"]]
    return Series(row["metric"], tuple(float(value) for _, value in pairs))


@contextmanager
def running(configuration: Tree, directory: Path) -> Iterator[Prometheus]:
    """Run it until the block ends, on a port and in a directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    (config := directory / "prometheus.yml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    program = parts.program("prometheus", "bin/prometheus")
    assert program is not None, "mark the test with requires(part='prometheus')"
    port = free_port()
    prometheus = Prometheus(port, directory / "prometheus.log")
    with prometheus.log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
        )
    try:
        if not wait_until(lambda: _ready(prometheus, process), 30):
            raise PrometheusError(prometheus.log.read_text(errors="replace")[-4000:])
        yield prometheus
    finally:
        end(process)


def _ready(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise PrometheusError(prometheus.log.read_text(errors="replace")[-4000:])
    try:
        urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=2).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def quantile_bounds(share: float, values: list[float], bounds: list[float]) -> tuple[float, float]:
    """The bucket in which the quantile of `values` lies: what a histogram with these bounds can say of it at best."""
    wanted = sorted(values)[math.ceil(share * len(values)) - 1]
    below = [bound for bound in bounds if bound < wanted]
    above = [bound for bound in bounds if bound >= wanted]
    return (max(below, default=0.0), min(above, default=math.inf))
