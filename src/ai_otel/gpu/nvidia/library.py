"""Opening NVML: the binding, the driver's library, and one sentence for each way in which they are not there."""

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
"""Where there is one of these, there is a driver, whatever else is missing."""

RUNTIME_CLASS = "run the pod with the nvidia runtime class (runtimeClassName: nvidia)"
SENTENCES = {
    DRIVER_NOT_LOADED: f"NVML is here, but no NVIDIA driver is loaded: on a GPU node {RUNTIME_CLASS}",
    FUNCTION_NOT_FOUND: "NVIDIA's driver is too old for us: update it to 535 or newer",
    NO_PERMISSION: "NVIDIA's driver lets this user not in: give it access to /dev/nvidiactl and /dev/nvidia0, 1, …",
    VERSION_MISMATCH: "NVIDIA's driver and its libraries have different versions, as after an update without a reboot:"
    " reboot the node, then restart this container",
}
NEEDED = ("nvmlInit", "nvmlDeviceGetFieldValues", "nvmlMemory_v2", "NVMLError", "_nvmlGetFunctionPointer")
"""What tells a binding that is new enough. By feature: old copies of `pynvml` lie around with any version number."""


def binding() -> Any:
    """Import NVIDIA's binding. Raises `Unavailable`."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        here = driver_is_here()
        what = "NVIDIA GPUs are here, but not" if here else "There is no NVIDIA driver here, and not"
        raise Unavailable(f"{what} NVML's binding: pip install 'ai-otel[nvidia]'.", installed=here) from None
    missing = [name for name in NEEDED if not hasattr(library, name)]
    if missing:
        where = getattr(library, "__file__", "pynvml")
        raise Unavailable(
            f"{where} is too old (it has no {missing[0]}): pip uninstall pynvml, then pip install 'ai-otel[nvidia]'.",
            installed=True,
        )
    return library


def start(library: Any) -> None:
    """Load the driver's library, and hold it. Raises `Unavailable`."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> Unavailable:
    """Why NVML does not start, and what to do."""
    code = code_of(error)
    if code == LIBRARY_NOT_FOUND:
        here = driver_is_here()
        what = "NVIDIA's devices are here, but libnvidia-ml.so.1 is not" if here else "There is no NVIDIA driver here"
        return Unavailable(f"{what}: on a GPU node {RUNTIME_CLASS}.", installed=here)
    sentence = SENTENCES.get(code, f"NVML does not start ({error}): see what nvidia-smi says in this container")
    return Unavailable(f"{sentence}.", installed=True)


def no_gpu() -> Unavailable:
    """NVML answers, and has nothing to show."""
    return Unavailable(
        "NVML sees no GPU in this container: give it one (resources.limits nvidia.com/gpu, or NVIDIA_VISIBLE_DEVICES).",
        installed=True,
    )


def driver_is_here() -> bool:
    """Whether a driver left a trace."""
    return any(trace.exists() for trace in TRACES)
