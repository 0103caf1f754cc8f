"""Loads NVML's binding and the driver's library, with one message for each way in which that fails."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ai_otel.gpu.nvidia.calls import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    VERSION_MISMATCH,
    code_of,
)
from ai_otel.gpu.source import Unavailable

TRACES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Files of which at least one exists wherever the driver is installed."""

RUNTIME_CLASS = "run the pod with the nvidia runtime class (runtimeClassName: nvidia)"
MESSAGES = {
    DRIVER_NOT_LOADED: f"NVML is installed, but no NVIDIA driver is loaded: on a GPU node {RUNTIME_CLASS}",
    FUNCTION_NOT_FOUND: "NVIDIA's driver is too old: update it to 535 or newer",
    NO_PERMISSION: "NVIDIA's driver denies access: give this user access to /dev/nvidiactl and /dev/nvidia0, 1, …",
    VERSION_MISMATCH: "NVIDIA's driver and its libraries have different versions, as after an update without a reboot:"
    " reboot the node, then restart this container",
}
NEEDED = ("nvmlInit", "nvmlDeviceGetFieldValues", "nvmlMemory_v2", "NVMLError", "_nvmlGetFunctionPointer")
"""Names that a supported binding has. Version numbers are unreliable: outdated copies of `pynvml` have any."""


def binding() -> Any:
    """Import NVIDIA's binding. Raises `Unavailable`."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        here = driver_is_here()
        what = "NVIDIA GPUs are present, but not" if here else "There is no NVIDIA driver here, nor"
        step = "pip install 'ai-otel[nvidia]'." if here else "on a GPU node, pip install 'ai-otel[nvidia]'."
        raise Unavailable(f"{what} NVML's binding: {step}", installed=here) from None
    missing = [name for name in NEEDED if not hasattr(library, name)]
    if missing:
        where = getattr(library, "__file__", "pynvml")
        raise Unavailable(
            f"{where} is too old (it has no {missing[0]}): pip uninstall pynvml, then pip install 'ai-otel[nvidia]'.",
            installed=True,
        )
    return library


def start(library: Any) -> None:
    """Load and initialize the driver's library. Raises `Unavailable`."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> Unavailable:
    """Return why NVML does not start, with the next step."""
    code = code_of(error)
    if code == LIBRARY_NOT_FOUND:
        here = driver_is_here()
        what = (
            "NVIDIA's devices are present, but libnvidia-ml.so.1 is missing"
            if here
            else "There is no NVIDIA driver here"
        )
        return Unavailable(f"{what}: on a GPU node {RUNTIME_CLASS}.", installed=here)
    sentence = MESSAGES.get(code, f"NVML does not start ({error}): see what nvidia-smi reports in this container")
    return Unavailable(f"{sentence}.", installed=True)


def no_gpu() -> Unavailable:
    """Return the error for a container in which NVML enumerates no GPU."""
    return Unavailable(
        "NVML sees no GPU in this container: give it one (resources.limits nvidia.com/gpu, or NVIDIA_VISIBLE_DEVICES).",
        installed=True,
    )


def unreadable() -> Unavailable:
    """Return the error for a container in which no enumerated GPU can be opened."""
    return Unavailable(
        "NVML cannot open any GPU of this container: see what nvidia-smi reports in this container.", installed=True
    )


def driver_is_here() -> bool:
    """Return whether a driver is installed."""
    return any(trace.exists() for trace in TRACES)
