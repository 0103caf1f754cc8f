"""GPU telemetry. `SOURCES` lists the vendors; a vendor's library is imported when its source is opened."""

from __future__ import annotations

from collections.abc import Mapping

SOURCES: Mapping[str, str] = {
    "nvidia": "ai_otel.gpu.nvidia.source:NvmlSource",
    "amd": "ai_otel.gpu.amd.source:AmdSmiSource",
    "intel": "ai_otel.gpu.intel.source:LevelZeroSource",
    "tpu": "ai_otel.gpu.tpu.source:TpuSource",
    "neuron": "ai_otel.gpu.neuron.source:NeuronSource",
}
"""Vendor → source as `module:class`. Third parties register theirs in the entry point group `ai_otel.gpu_sources`."""

TRACES: Mapping[str, tuple[str, ...]] = {
    "amd": ("/dev/kfd",),
    "intel": ("/dev/dri",),
    "tpu": ("/dev/accel0", "/dev/vfio/0"),
    "neuron": ("/dev/neuron0",),
}
"""
Vendor → device nodes, of which one must exist before the vendor's library is imported. NVIDIA has no entry: its library
is mounted into every container with a GPU, and the attempt costs 0.2 ms.
"""
