"""The metric `ai_otel.gpu.allocation`: 1 for each device and container that the kubelet lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.agent.allocation import Allocated, Allocation
from ai_otel.instruments import observable


def observe_allocations(meter: Meter, allocated: Callable[[], Allocated]) -> None:
    """Create the instrument. Containers that have ended have no point."""

    def held() -> Iterator[Observation]:
        for allocation in allocated().allocations:
            yield Observation(1, attributes(allocation))

    observable(meter, semconv.AI_OTEL_GPU_ALLOCATION, held)


def attributes(allocation: Allocation) -> dict[str, str]:
    """Return the attributes of an allocation's point. A pod's UID is left out if unknown."""
    device, container = allocation.device, allocation.container
    values = {
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
    return {name: value for name, value in values.items() if value is not None}
