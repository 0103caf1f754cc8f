"""GPU sources: `SOURCES` is the list to start from. Nothing of a vendor is imported before its source is opened."""

from __future__ import annotations

from collections.abc import Mapping

SOURCES: Mapping[str, str] = {
    "nvidia": "ai_otel.gpu.nvml:NvmlSource",
    "amd": "ai_otel.gpu.amdsmi:AmdSmiSource",
    "intel": "ai_otel.gpu.level_zero:LevelZeroSource",
    "tpu": "ai_otel.gpu.tpu:TpuSource",
    "neuron": "ai_otel.gpu.neuron:NeuronSource",
}
"""Vendor → its source as `module:class`. Third parties add theirs by the entry point group `ai_otel.gpu_sources`."""
