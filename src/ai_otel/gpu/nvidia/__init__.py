"""NVIDIA GPUs by NVML: start at `source.py`."""
