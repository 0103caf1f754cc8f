"""Many metrics endpoints read by one Collector with every normaliser, and what came out of each."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.collector.golden import metric_lines
from harness.collector.process import Collector, Pages, Tree, attributes_of, composed, exports, running
from harness.polling import eventually

_INSTANCE = re.compile(r'"service.instance.id","value":{"stringValue":"([^"]*)"}')


@dataclass(frozen=True)
class Page:
    """One page: its engine, its text, and the labels of the target, such as `ai_otel_model`."""

    engine: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict)


class ManyPages:
    """
    Each page is read `times` times.

    `prometheus` is what Prometheus would read of all of them, where the backend of that name was asked for.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        directory: Path,
        *,
        times: int = 2,
        interval: str = "2s",
        backends: tuple[str, ...] = ("file",),
    ) -> None:
        tree = composed(role="sidecar", features=("local",), without=("persistence",), backends=backends)
        job, _ = tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]
        with Pages({f"/{one}": page.text for one, page in pages.items()}) as served:
            job["static_configs"] = [_target(one, page, served.address) for one, page in pages.items()]
            environment = {"AI_OTEL_SCRAPE_INTERVAL": interval, "AI_OTEL_SCRAPE_TIMEOUT": interval}
            with running(tree, directory, environment) as collector:
                written = directory / "out.jsonl"
                eventually(lambda: _read(written, pages, times), 90, lambda: collector.output()[-4000:])
                self.prometheus = prometheus_page(collector) if "prometheus" in backends else ""
                self.log = collector.output()
        self._exported: dict[str, list[Tree]] = defaultdict(list)
        for export in exports(written):
            for each in export["resourceMetrics"]:
                self._exported[instance_of(each)].append({"resourceMetrics": [each]})

    def exported(self, one: str) -> list[Tree]:
        """What came out of one page."""
        return self._exported[one]

    def lines(self, one: str) -> list[str]:
        """Its points, as lines of text; without the resource."""
        return [line for line in metric_lines(self.exported(one)) if not line.startswith(("resource ", "up "))]


def _target(one: str, page: Page, address: str) -> Tree:
    labels = {"ai_otel_engine": page.engine, "instance": one, "__metrics_path__": f"/{one}", **page.labels}
    return {"targets": [address], "labels": labels}


def _read(written: Path, pages: Mapping[str, Page], times: int) -> bool:
    # Without parsing what grows to many megabytes.
    seen = Counter(_INSTANCE.findall(written.read_text()) if written.exists() else ())
    return all(seen[one] >= times for one in pages)


def instance_of(resource_metrics: Tree) -> str:
    """Which page it is of."""
    return str(attributes_of(resource_metrics["resource"]).get("service.instance.id"))


def prometheus_page(collector: Collector) -> str:
    """The page of the backend `prometheus`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{collector.ports['prometheus']}/metrics", timeout=10) as page:
        return str(page.read().decode())
