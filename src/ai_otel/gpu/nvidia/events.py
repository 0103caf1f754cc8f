"""
What the driver reports by itself: XID errors, heard on a thread of their own.

NVML tells them to whoever waits, per physical GPU and on Linux only; what happened before we listened is unknown. The
code is NVIDIA's. Which of them matter is not ours to say.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ai_otel.gpu.nvidia.calls import LOST, TIMED_OUT, Calls, code_of
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, Support

XID = 0x8
WAIT_MS = 250
"""So long does `close` wait at most, unless the driver hangs."""
PAUSE_S = 1.0
"""Between two failed waits: with a lost GPU in the set, every wait fails at once."""
MOST_KEPT = 256
NO_INSTANCE = 0xFFFFFFFF


class XidWatch:
    """Hears what happens on `gpus`; a part that is known by its MIG instance gets its own."""

    def __init__(
        self, calls: Calls, gpus: Sequence[tuple[Any, Device]], parts: Mapping[tuple[str, str], Device]
    ) -> None:
        self._calls = calls
        self._library = calls.library
        self._clock: Callable[[], float] = calls.clock
        self._gpus = gpus
        self._by_address = {address_of(handle): device for handle, device in gpus}
        self._parts = parts
        self._heard: deque[GpuEvent] = deque(maxlen=MOST_KEPT)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._set: Any = None

    def start(self) -> None:
        """Listen, where a GPU has events to hear."""
        if self._register():
            thread = threading.Thread(target=self._listen, name="ai-otel-xid", daemon=True)
            with suppress(RuntimeError):  # at interpreter exit
                thread.start()
                self._thread = thread

    def drain(self) -> list[GpuEvent]:
        """What was heard since the last call."""
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def close(self) -> bool:
        """End the thread and free the set; false where the driver holds the thread, and NVML must not be shut down."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(4 * WAIT_MS / 1000 + PAUSE_S)
            if self._thread.is_alive():
                return False
        self._free()
        return True

    def _register(self) -> bool:
        """Make a set of every GPU that has events; false where none has."""
        self._free()
        self._set = self._calls.ask("nvmlEventSetCreate")
        if isinstance(self._set, Support):
            return False
        heard = [self._registered(handle, device) for handle, device in self._gpus]
        if not any(heard):
            self._free()
        return any(heard)

    def _registered(self, handle: Any, device: Device) -> bool:
        try:
            answer = self._calls.ask("nvmlDeviceRegisterEvents", handle, XID, self._set, about=device.key)
        except DeviceLost:
            return False
        return not isinstance(answer, Support)

    def _free(self) -> None:
        if self._set is not None and not isinstance(self._set, Support):
            self._calls.ask("nvmlEventSetFree", self._set)
        self._set = None

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                event = self._library.nvmlEventSetWait_v2(self._set, WAIT_MS)
            except self._library.NVMLError as error:
                if code_of(error) != TIMED_OUT and not self._go_on_after(code_of(error)):
                    return
                continue
            self._hear(event)

    def _go_on_after(self, code: int) -> bool:
        """After a failed wait, pause; without the GPU that is lost, if one is. False where nobody is left."""
        self._ended.wait(PAUSE_S)
        return code not in LOST or self._ended.is_set() or self._register()

    def _hear(self, event: Any) -> None:
        device = self._by_address.get(address_of(event.device))
        if device is None or event.eventType != XID:
            return
        part = self._parts.get((device.id, str(event.gpuInstanceId))) if event.gpuInstanceId != NO_INSTANCE else None
        self._heard.append(GpuEvent(part or device, int(event.eventData), self._clock()))


def address_of(handle: Any) -> int | None:
    """What tells handles apart: each call makes a new object around the same address."""
    return ctypes.cast(handle, ctypes.c_void_p).value
