"""The agent of one node: wires the sampler, the kubelet poller and the exporters."""

from __future__ import annotations

import functools
import socket
import threading
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
from ai_otel.agent.health import HealthStatus
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.agent.metrics import observe_allocations
from ai_otel.emit.health import observe_exports
from ai_otel.gpu.monitor import GpuMonitor
from ai_otel.gpu.registry import make_sources, wanted_sources
from ai_otel.gpu.source import Device, Options
from ai_otel.settings import Environment, Settings
from ai_otel.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from ai_otel.providers import Providers

SERVICE = "ai-otel-agent"
STALE_S = 60.0
"""Maximum age in seconds of the last sample for readiness; ten intervals if that is longer."""


class Agent:
    """Exports the node's devices and allocations, and serves `/healthz`, from `start` to `stop`."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        self.settings = settings
        self.environment = environment
        self.node = environment.pod.get(semconv.K8S_NODE_NAME)
        self.port: int | None = None
        """Port of `/healthz`."""
        self._monitor = GpuMonitor(settings.gpu_interval)
        self.sampler = self._monitor.sample(
            lambda: make_sources(wanted_sources(settings.gpu), Options(processes=settings.gpu_processes))
        )
        self.poller = KubeletPoller(
            _options(settings, environment),
            self.devices,
            self.sampler.rediscover,
            lambda: self.sampler.snapshot.taken_s is not None,
        )
        self._running = ExitStack()
        self._stop_by_s = 0.0

    def devices(self) -> list[Device]:
        """Return every device of the last snapshot, including lost ones."""
        return [sample.device for sample in self.sampler.snapshot.samples]

    def start(self) -> None:
        """Start all threads. Raises `OSError` if the address of `/healthz` is in use."""
        self.port = self._running.enter_context(health.serving(self.settings.agent_listen, self.status))
        providers = _providers(self.environment, self.node, direct=self.settings.emitter == "direct")
        self._running.callback(self._shut_down, providers)
        hw = providers.meter_provider.get_meter(semconv.SCOPE_HW, __version__, semconv.SCHEMA_URL_CORE)
        own = providers.meter_provider.get_meter(semconv.SCOPE, __version__)
        self._monitor.observe(hw, own)
        observe_exports(own, lambda: providers.exports)
        observe_allocations(own, lambda: self.poller.view.allocated)
        self.sampler.start()
        self._running.callback(lambda: self.sampler.stop(self._left_s()))
        self.poller.start()
        self._running.callback(lambda: self.poller.stop(self._left_s()))

    def stop(self) -> None:
        """Stop all threads and export the last points, all within the stop timeout."""
        self._stop_by_s = time.monotonic() + self.settings.stop_timeout
        self._running.close()

    def _left_s(self) -> float:
        return max(0.0, self._stop_by_s - time.monotonic())

    def _shut_down(self, providers: Providers) -> None:
        # On a thread of its own: the SDK waits 30 s for an exporter that hangs.
        thread = threading.Thread(target=providers.shutdown, name="ai-otel stop", daemon=True)
        thread.start()
        thread.join(self._left_s())

    def status(self) -> HealthStatus:
        """
        Return the agent's health.

        Kubelet errors do not affect readiness, because device metrics are exported without the kubelet.
        """
        now, snapshot, view = time.perf_counter(), self.sampler.snapshot, self.poller.view
        vendors = Counter(sample.device.vendor for sample in snapshot.samples)
        stale_s = max(STALE_S, 10 * self.settings.gpu_interval)
        sampled_ago_s = _ago(now, snapshot.taken_s)
        ready = self.sampler.alive and self.poller.alive and sampled_ago_s is not None and sampled_ago_s <= stale_s
        facts: dict[str, Any] = {
            "version": __version__,
            "node": self.node,
            "sampler": {
                "alive": self.sampler.alive,
                "sampled_ago_s": sampled_ago_s,
                "sources": {**dict.fromkeys(vendors, "ok"), **snapshot.errors},
                "devices": dict(vendors),
                "lost": sorted({sample.device.id for sample in snapshot.samples if sample.lost}),
            },
            "kubelet": {
                "alive": self.poller.alive,
                "listed_ago_s": _ago(now, view.listed_at_s),
                "allocations": len(view.allocated.allocations),
                "unmapped": len(view.allocated.unmapped),
                "ended": view.allocated.ended,
                "troubles": dict(view.errors),
                "failures": dict(view.failures),
            },
        }
        return HealthStatus(ready, facts)


def _ago(now_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(now_s - then_s, 3)


def _options(settings: Settings, environment: Environment) -> PollerOptions:
    return PollerOptions(
        kubelet=Path(settings.agent_kubelet) / "kubelet.sock",
        pods_api=Path(settings.agent_pods_api) / "pods-api.sock",
        wanted=settings.agent_resources,
        interval_s=settings.agent_interval,
        replicas=settings.agent_replicas,
        slices_on=settings.agent_resource_slices,
        api_server=ApiServer(*environment.api_server) if environment.api_server else None,
        node=environment.pod.get(semconv.K8S_NODE_NAME),
    )


def resource(environment: Environment, node: str | None) -> Resource:
    """
    Return the resource of the node, not of the agent's pod: the devices do not belong to that pod.

    The node's name is the service instance, so series continue when the agent's pod is replaced.
    """
    from ai_otel import resource as resources

    pod: Mapping[str, str] = {} if node is None else {semconv.K8S_NODE_NAME: node}
    built = resources.build(replace(environment, pod=pod), service=SERVICE, instance=node)
    if node is not None and built.attributes.get(semconv.HOST_NAME) == socket.gethostname():
        # In a pod, the detected host name is the pod's name.
        return built.merge(type(built)({semconv.HOST_NAME: node}))
    return built


def _providers(environment: Environment, node: str | None, *, direct: bool) -> Providers:
    from ai_otel import providers

    # The agent exports no spans, so no exporter for them is created.
    metrics_only = {**environment.otel, "OTEL_TRACES_EXPORTER": "none"}
    built = functools.partial(resource, environment, node)
    return providers.choose(providers.UserProviders(), built, metrics_only, direct=direct)
