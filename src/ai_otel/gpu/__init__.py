"""GPU sources: `SOURCES` is the list to start from. Nothing of a vendor is imported before its source is opened."""

from __future__ import annotations

from collections.abc import Mapping

SOURCES: Mapping[str, str] = {
    "nvidia": "ai_otel.gpu.nvidia.source:NvmlSource",
    "amd": "ai_otel.gpu.amd.source:AmdSmiSource",
    "intel": "ai_otel.gpu.intel.source:LevelZeroSource",
    "tpu": "ai_otel.gpu.tpu.source:TpuSource",
    "neuron": "ai_otel.gpu.neuron.source:NeuronSource",
}
"""Vendor → its source as `module:class`. Third parties add theirs by the entry point group `ai_otel.gpu_sources`."""

TRACES: Mapping[str, tuple[str, ...]] = {
    "amd": ("/dev/kfd",),
    "intel": ("/dev/dri",),
    "tpu": ("/dev/accel0", "/dev/vfio/0"),
    "neuron": ("/dev/neuron0",),
}
"""
Vendor → device nodes without which there is nothing of it here, and nothing is imported to find out. NVIDIA has none:
its library is where a container was given a GPU, and asking costs a fifth of a millisecond.
"""
