"""`ai_otel.gpu.allocation`: 1 for each device and container, for as long as the kubelet lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.agent.allocation import Allocated, Allocation
from ai_otel.instruments import observable


def observe_allocations(meter: Meter, allocated: Callable[[], Allocated]) -> None:
    """Observe what is held now; a container that is gone has no point any more."""

    def held() -> Iterator[Observation]:
        for allocation in allocated().allocations:
            yield Observation(1, attributes(allocation))

    observable(meter, semconv.AI_OTEL_GPU_ALLOCATION, held)


def attributes(allocation: Allocation) -> dict[str, str]:
    """What a point says; a pod's UID only where it is known."""
    device, container = allocation.device, allocation.container
    told = {
        semconv.HW_ID: device.id,
        semconv.AI_OTEL_GPU_INSTANCE_ID: device.instance_id,
        semconv.AI_OTEL_GPU_INSTANCE_PROFILE: device.instance_profile,
        semconv.K8S_NAMESPACE_NAME: container.namespace,
        semconv.K8S_POD_NAME: container.pod,
        semconv.K8S_CONTAINER_NAME: container.name,
        semconv.K8S_POD_UID: allocation.pod_uid,
        semconv.AI_OTEL_GPU_SHARING: allocation.sharing,
        semconv.AI_OTEL_GPU_ATTRIBUTION: allocation.attribution,
    }
    return {name: value for name, value in told.items() if value is not None}
