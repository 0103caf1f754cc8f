"""What a GPU supports: every call, field and metric with its return code, type, range and latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Options
from nvml_recording.library import (
    ALL_LINKS,
    BY_TYPE,
    CALLS,
    FIELDS,
    GPM_COUNTERS,
    GPM_READ,
    SCOPED,
    TYPE_NAMES,
    WITH_MODULE,
    Nvml,
    latencies_us,
    plain,
)

APART_S = 0.2


def of_gpu(nvml: Nvml, handle: Any, times: int) -> dict[str, Any]:
    """Return all results of one physical GPU and its MIG instances."""
    return {
        "calls": calls(nvml, handle, times),
        "fields": fields(nvml, handle, times),
        "gpm": gpm(nvml, handle),
        "instances": instances(nvml, handle, times),
    }


def calls(nvml: Nvml, handle: Any, times: int) -> dict[str, Any]:
    """Return, by symbol: return code, value, minimum, maximum and latency."""
    return {key: one_call(nvml, handle, key, times) for key in CALLS}


def one_call(nvml: Nvml, handle: Any, key: str, times: int) -> dict[str, Any]:
    """Return the results of one call."""
    name, arguments = CALLS[key]
    seen: list[float] = []
    last: tuple[int, Any] = (0, None)

    def ask() -> None:
        nonlocal last
        last = nvml.ask(name, handle, *arguments)
        if isinstance(last[1], (int, float)):
            seen.append(last[1])

    took = latencies_us(ask, times)
    code, answer = last
    results = {"code": code, "type": None if code else type(answer).__name__, "value": plain(answer), "latency": took}
    return results | ({"min": min(seen), "max": max(seen)} if seen else {})


def fields(nvml: Nvml, handle: Any, times: int) -> dict[str, Any]:
    """Return, by field id and scope: return code, type, value, and latency as reported and as measured."""
    results: dict[str, Any] = {}
    for number in FIELDS:
        for scope in (0, ALL_LINKS) if number in SCOPED else (0, 1) if number in WITH_MODULE else (0,):
            answer = nvml.field(handle, number, scope)
            if isinstance(answer, int):
                results[f"{number}/{scope}"] = {"code": answer, "of": "the batch"}
                continue
            value = getattr(answer.value, BY_TYPE.get(answer.valueType, ""), None)
            results[f"{number}/{scope}"] = {
                "code": int(answer.nvmlReturn),
                "type": TYPE_NAMES.get(answer.valueType, str(answer.valueType)),
                "value": None if answer.nvmlReturn else value,
                "driver_latency_us": int(answer.latencyUsec),
                "latency": latencies_us(partial(nvml.field, handle, number, scope), times),
            }
    return results


def gpm(nvml: Nvml, handle: Any, instance: int | None = None, between_s: float = APART_S) -> dict[str, Any]:
    """Return the return codes of all GPM calls, and each metric's return code and value."""
    code, support = nvml.ask("nvmlGpmQueryDeviceSupport", handle)
    results: dict[str, Any] = {"support_code": code, "supported": None if code else int(support.isSupportedDevice)}
    samples: list[Any] = []
    try:
        for _ in range(2):
            code, sample = nvml.ask("nvmlGpmSampleAlloc")
            if code:
                return results | {"alloc_code": code}
            samples.append(sample)
        codes = []
        for sample in samples:
            began = time.perf_counter()
            where = () if instance is None else (instance,)
            name = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
            codes.append(nvml.ask(name, handle, *where, sample)[0])
            results["sample_us"] = round((time.perf_counter() - began) * 1e6, 1)
            time.sleep(between_s if sample is samples[0] else 0)
        return results | {"sample_codes": codes} | ({} if any(codes) else compared(nvml, samples))
    finally:
        for sample in samples:
            nvml.ask("nvmlGpmSampleFree", sample)


def compared(nvml: Nvml, samples: Sequence[Any]) -> dict[str, Any]:
    """Return the metrics between two samples."""
    most = getattr(nvml.binding, "NVML_GPM_METRIC_MAX", 98)
    metrics = [metric for metric in (*GPM_READ, *GPM_COUNTERS) if metric < most]
    request = nvml.binding.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = nvml.binding.NVML_GPM_METRICS_GET_VERSION, len(metrics)
    request.sample1, request.sample2 = samples
    for place, metric in enumerate(metrics):
        request.metrics[place].metricId = metric
    began = time.perf_counter()
    code, _ = nvml.ask("nvmlGpmMetricsGet", request)
    results = [request.metrics[place] for place in range(0 if code else len(metrics))]
    return {
        "get_code": code,
        "get_us": round((time.perf_counter() - began) * 1e6, 1),
        "room_in_binding": most,
        "metrics": {
            str(one.metricId): {"code": int(one.nvmlReturn), "value": None if one.nvmlReturn else one.value}
            for one in results
        },
    }


def instances(nvml: Nvml, handle: Any, times: int) -> list[dict[str, Any]]:
    """Return the results of the MIG devices that are visible to this container."""
    code, mode = nvml.ask("nvmlDeviceGetMigMode", handle)
    if code or not mode[0]:
        return []
    _, most = nvml.ask("nvmlDeviceGetMaxMigDeviceCount", handle)
    results = []
    for index in range(most or 0):
        code, device = nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if not code:
            _, gi = nvml.ask("nvmlDeviceGetGpuInstanceId", device)
            _, ci = nvml.ask("nvmlDeviceGetComputeInstanceId", device)
            one = {"gi": gi, "ci": ci, "calls": calls(nvml, device, times), "gpm": gpm(nvml, handle, gi)}
            results.append(one | {"attributes": plain(nvml.ask("nvmlDeviceGetAttributes_v2", device)[1])})
    return results


# ---------------------------------------------------------------- readings of the source


def as_read() -> list[dict[str, Any]]:
    """Return the reading of each device: support by value, and the values."""
    source = NvmlSource(Options(processes=True))
    devices = source.open()
    try:
        time.sleep(APART_S)
        return [one_device(source, device) for device in devices]
    finally:
        source.close()


def one_device(source: NvmlSource, device: Device) -> dict[str, Any]:
    """Return the reading of one device."""
    named = {"id": device.id, "instance_id": device.instance_id, "model": device.model}
    try:
        reading = source.read(device)
    except DeviceLost:
        return named | {"support": "lost"}
    return named | {"support": support_map(reading), "reading": values_of(reading)}


def support_map(reading: GpuReading) -> dict[str, str]:
    """Return, by value or entry of a mapping: `ok`, or why it is absent."""
    values = dict.fromkeys(values_of(reading), "ok")
    why = {name: support.value for name, support in reading.absent.items()}
    return dict(sorted((values | why).items()))


def values_of(reading: GpuReading) -> dict[str, Any]:
    """Return the available values, mappings by `field.key`."""
    results: dict[str, Any] = {}
    for name in GpuReading.__slots__:
        value = getattr(reading, name)
        if isinstance(value, dict) and name != "absent":
            results |= {
                f"{name}.{'.'.join(key) if isinstance(key, tuple) else key}": each for key, each in value.items()
            }
        elif value is not None and name != "absent":
            results[name] = value
    # PIDs identify the machine.
    return {
        ("process_memory_bytes.0" if name.startswith("process") else name): value for name, value in results.items()
    }
