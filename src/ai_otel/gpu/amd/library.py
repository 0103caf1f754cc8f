"""Loads AMD SMI: the binding and its library, with one message for each way in which that fails."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ai_otel.gpu import TRACES
from ai_otel.gpu.source import Unavailable

TRACE = Path(TRACES["amd"][0])
"""AMD's compute device node. It exists wherever a GPU and its driver are installed."""

INSTALL = "pip install /opt/rocm/share/amd_smi, or pip install 'ai-otel[amd]' in the version of your ROCm"
NEEDED = ("amdsmi_init", "amdsmi_get_processor_handles", "amdsmi_get_gpu_device_uuid", "AmdSmiException")


def start() -> Any:
    """Import AMD's binding, then load and initialize its library. Raises `Unavailable`."""
    here = TRACE.exists()
    try:
        with _silent():
            library = importlib.import_module("amdsmi")
    except ImportError:
        what = "AMD GPUs are present, but not" if here else "There is no AMD GPU here, and not"
        raise Unavailable(f"{what} AMD SMI's binding: {INSTALL}.", installed=here) from None
    except (KeyError, OSError):
        # Without its library, the binding fails at the first symbol that it looks up.
        raise Unavailable(
            f"AMD SMI's binding is installed without its library libamd_smi.so: install amd-smi-lib{_library_hint()}.",
            installed=here,
        ) from None
    except AttributeError as error:
        raise Unavailable(
            f"AMD SMI's binding and its library are of different ROCm releases ({error}): {INSTALL}.", installed=True
        ) from None
    missing = [name for name in NEEDED if not hasattr(library, name)]
    if missing:
        raise Unavailable(f"AMD SMI's binding is too old (it has no {missing[0]}): {INSTALL}.", installed=True)
    try:
        library.amdsmi_init()
    except library.AmdSmiException as error:
        reason = " ".join(str(error).split())
        raise Unavailable(
            f"AMD SMI does not start ({reason}): load the amdgpu driver; give this container /dev/kfd and /dev/dri.",
            installed=here,
        ) from None
    return library


def handles(library: Any) -> Sequence[Any]:
    """Return the handles of every GPU and partition. Raises `Unavailable`."""
    try:
        found: Sequence[Any] = library.amdsmi_get_processor_handles()
    except library.AmdSmiException as error:
        raise Unavailable(
            f"AMD SMI does not list its GPUs ({' '.join(str(error).split())}): see what amd-smi list reports here.",
            installed=True,
        ) from None
    return found


def no_gpu() -> Unavailable:
    """Return the error for a container in which AMD SMI enumerates no GPU."""
    return Unavailable(
        "AMD SMI finds no GPU: give this container /dev/kfd and its /dev/dri/renderD*.", installed=TRACE.exists()
    )


def _library_hint() -> str:
    return ", or give this container /opt/rocm" if not Path("/opt/rocm").exists() else ""


# ---------------------------------------------------------------- output of the import


class _ThreadFilter:
    """Standard output that discards the writes of one thread and passes on those of all others."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._discarded_thread = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._discarded_thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what the binding prints if it does not find its library."""
    before = sys.stdout
    replacement: Any = _ThreadFilter(before)
    sys.stdout = replacement
    try:
        yield
    finally:
        if sys.stdout is replacement:
            sys.stdout = before
