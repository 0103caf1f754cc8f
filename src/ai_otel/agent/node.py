"""The agent of one node: the library's own sampler, the one who asks the kubelet, and where it all goes."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_otel import semconv
from ai_otel.agent import health
from ai_otel.agent.api_server import ApiServer
from ai_otel.agent.health import Report
from ai_otel.agent.kubelet_poller import Places, Watch
from ai_otel.agent.metrics import observe_allocations
from ai_otel.devices import make_sources
from ai_otel.gpu.metrics import observe
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.source import Device, Options
from ai_otel.instruments import histogram
from ai_otel.settings import Settings, Surroundings
from ai_otel.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.sdk.resources import Resource

    from ai_otel.providers import Providers

SERVICE = "ai-otel-agent"
SILENT_S = 60.0
"""A sampler that has not looked for so long, or for ten of its intervals, is not ready."""


class Agent:
    """Reads the devices of the node and who holds them; `start` also sends it and serves the page, `stop` ends all."""

    def __init__(self, settings: Settings, surroundings: Surroundings) -> None:
        self.settings = settings
        self.surroundings = surroundings
        self.node = surroundings.pod.get(semconv.K8S_NODE_NAME)
        self.port: int | None = None
        """Where the page is."""
        self._duration: Histogram | None = None
        self.sampler = Sampler(
            lambda: make_sources(settings.gpu, Options(processes=settings.gpu_processes)),
            interval_s=settings.gpu_interval,
            passed=self._passed,
        )
        self.watch = Watch(
            _places(settings, surroundings),
            self.devices,
            self.sampler.find_anew,
            lambda: self.sampler.snapshot.taken_s is not None,
        )
        self._running = ExitStack()

    def devices(self) -> list[Device]:
        """Every device of the last look, also those that do not answer any more."""
        return [look.device for look in self.sampler.snapshot.looks]

    def start(self) -> None:
        """Begin. Raises `OSError` where the page's address is taken."""
        self.port = self._running.enter_context(health.serving(self.settings.agent_listen, self.report))
        providers = _providers(self.surroundings, self.node)
        self._running.callback(providers.shutdown)
        hw = providers.meter_provider.get_meter(semconv.SCOPE_HW, __version__, semconv.SCHEMA_URL_CORE)
        own = providers.meter_provider.get_meter(semconv.SCOPE, __version__)
        self._duration = histogram(own, semconv.AI_OTEL_GPU_PASS_DURATION)
        observe(hw, own, lambda: self.sampler.snapshot, interval_s=self.settings.gpu_interval)
        observe_allocations(own, lambda: self.watch.view.allocated)
        self.sampler.start()
        self._running.callback(self.sampler.stop, self.settings.stop_timeout)
        self.watch.start()
        self._running.callback(self.watch.stop, self.settings.stop_timeout)

    def stop(self) -> None:
        """End, the last points included."""
        self._running.close()

    def report(self) -> Report:
        """
        How it goes.

        Trouble with the kubelet does not make it unready: what the devices tell goes out all the same.
        """
        now, snapshot, view = time.perf_counter(), self.sampler.snapshot, self.watch.view
        vendors = Counter(look.device.vendor for look in snapshot.looks)
        silent_s = max(SILENT_S, 10 * self.settings.gpu_interval)
        looked_ago_s = _ago(now, snapshot.taken_s)
        ready = self.sampler.alive and self.watch.alive and looked_ago_s is not None and looked_ago_s <= silent_s
        facts: dict[str, Any] = {
            "version": __version__,
            "node": self.node,
            "sampler": {
                "alive": self.sampler.alive,
                "looked_ago_s": looked_ago_s,
                "sources": {**dict.fromkeys(vendors, "ok"), **snapshot.troubles},
                "devices": dict(vendors),
                "lost": sorted({look.device.id for look in snapshot.looks if look.lost}),
            },
            "kubelet": {
                "alive": self.watch.alive,
                "listed_ago_s": _ago(now, view.listed_at_s),
                "allocations": len(view.allocated.allocations),
                "unmapped": len(view.allocated.unmapped),
                "ended": view.allocated.ended,
                "troubles": dict(view.troubles),
            },
        }
        return Report(ready, facts)

    def _passed(self, kind: str, took_s: float) -> None:
        if self._duration is not None:
            self._duration.record(took_s, {semconv.AI_OTEL_GPU_PASS: kind})


def _ago(now_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(now_s - then_s, 3)


def _places(settings: Settings, surroundings: Surroundings) -> Places:
    return Places(
        kubelet=Path(settings.agent_kubelet) / "kubelet.sock",
        pods_api=Path(settings.agent_pods_api) / "pods-api.sock",
        wanted=settings.agent_resources,
        interval_s=settings.agent_interval,
        replicas=settings.agent_replicas,
        slices_on=settings.agent_resource_slices,
        api_server=ApiServer(*surroundings.api_server) if surroundings.api_server else None,
        node=surroundings.pod.get(semconv.K8S_NODE_NAME),
    )


def resource(surroundings: Surroundings, node: str | None) -> Resource:
    """
    The node speaks, not the pod in which the agent happens to run: its pod is not the pod of any device.

    The node's name is the instance, so series go on when the agent's pod is replaced.
    """
    from ai_otel import resource as resources

    pod: Mapping[str, str] = {} if node is None else {semconv.K8S_NODE_NAME: node}
    built = resources.build(replace(surroundings, pod=pod), service=SERVICE, instance=node)
    if node is not None and built.attributes.get(semconv.HOST_NAME) == socket.gethostname():
        # In a pod that is the pod's name, unless somebody said otherwise.
        return built.merge(type(built)({semconv.HOST_NAME: node}))
    return built


def _providers(surroundings: Surroundings, node: str | None) -> Providers:
    from ai_otel import providers

    built, path = resource(surroundings, node), surroundings.otel.get("OTEL_CONFIG_FILE")
    # There are no spans: no exporter for them need be made.
    metrics_only = {**surroundings.otel, "OTEL_TRACES_EXPORTER": "none"}
    return (providers.from_file(path, built) if path else None) or providers.own(built, metrics_only)
