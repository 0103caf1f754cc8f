"""Opening AMD SMI: the binding, its library, and one sentence for each way in which they are not there."""

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
"""AMD's device node for computing: where it is, there is a GPU and a driver, whatever else is missing."""

INSTALL = "pip install /opt/rocm/share/amd_smi, or pip install 'ai-otel[amd]' in the version of your ROCm"
NEEDED = ("amdsmi_init", "amdsmi_get_processor_handles", "amdsmi_get_gpu_device_uuid", "AmdSmiException")


def started() -> Any:
    """Import AMD's binding, load its library, and hold it. Raises `Unavailable`."""
    here = TRACE.exists()
    try:
        with _silent():
            library = importlib.import_module("amdsmi")
    except ImportError:
        what = "AMD GPUs are here, but not" if here else "There is no AMD GPU here, and not"
        raise Unavailable(f"{what} AMD SMI's binding: {INSTALL}.", installed=here) from None
    except (KeyError, OSError):
        # The binding goes on without its library, and stumbles at the first name that it looks up in it.
        raise Unavailable(
            f"AMD SMI's binding is here without its library libamd_smi.so: install amd-smi-lib{_then()}.",
            installed=here,
        ) from None
    except AttributeError as error:
        raise Unavailable(
            f"AMD SMI's binding and its library are of different ROCm releases ({error}): {INSTALL}.", installed=True
        ) from None
    missing = [name for name in NEEDED if not hasattr(library, name)]
    if missing:
        raise Unavailable(f"AMD SMI's binding is too old for us (it has no {missing[0]}): {INSTALL}.", installed=True)
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
    """Every GPU and partition. Raises `Unavailable`."""
    try:
        found: Sequence[Any] = library.amdsmi_get_processor_handles()
    except library.AmdSmiException as error:
        raise Unavailable(
            f"AMD SMI does not tell of its GPUs ({' '.join(str(error).split())}): see what amd-smi list says here.",
            installed=True,
        ) from None
    return found


def no_gpu() -> Unavailable:
    """AMD SMI runs, and has nothing."""
    return Unavailable(
        "AMD SMI tells of no GPU: give this container /dev/kfd and its /dev/dri/renderD*.", installed=TRACE.exists()
    )


def _then() -> str:
    return ", or give this container /opt/rocm" if not Path("/opt/rocm").exists() else ""


# ---------------------------------------------------------------- an import that prints


class _OthersOnly:
    """Standard output as it is, but deaf to one thread: what the server prints meanwhile goes its way."""

    def __init__(self, through: TextIO) -> None:
        self._through = through
        self._deaf_to = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._deaf_to else self._through.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._through, name)


@contextmanager
def _silent() -> Iterator[None]:
    """The binding prints when it does not find its library: not on the server's output."""
    before = sys.stdout
    ours: Any = _OthersOnly(before)
    sys.stdout = ours
    try:
        yield
    finally:
        if sys.stdout is ours:
            sys.stdout = before
