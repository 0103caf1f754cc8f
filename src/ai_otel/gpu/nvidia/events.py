"""
XID errors: events that the driver reports, received on a separate thread.

NVML delivers them per physical GPU and on Linux only. Events before `start` are unknown. The codes are those of
NVIDIA's XID catalog and are exported without a severity.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ai_otel.gpu.nvidia.calls import LOST, TIMED_OUT, Calls, code_of
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, Support
from ai_otel.hooks.daemon import DaemonThread

XID = 0x8
WAIT_MS = 250
"""Timeout of one wait in milliseconds, which bounds the duration of `close` unless the driver hangs."""
PAUSE_S = 1.0
"""Seconds between two failed waits: with a lost GPU in the event set, every wait fails immediately."""
MAX_PENDING = 256
NO_INSTANCE = 0xFFFFFFFF


class XidMonitor:
    """Receives the XID errors of `gpus`. Errors of a MIG instance are assigned to the instance."""

    def __init__(
        self, calls: Calls, gpus: Sequence[tuple[Any, Device]], instances: Mapping[tuple[str, str], Device]
    ) -> None:
        self._calls = calls
        self._library = calls.library
        self._clock: Callable[[], float] = calls.clock
        self._gpus = gpus
        self._by_address = {address_of(handle): device for handle, device in gpus}
        self._instances = instances
        self._events: deque[GpuEvent] = deque(maxlen=MAX_PENDING)
        self._thread = DaemonThread("ai-otel-xid", self._listen)
        self._stopping = self._thread.stopping
        self._set: Any = None

    def start(self) -> None:
        """Start the thread if at least one GPU supports XID events."""
        if self._register():
            self._thread.start()

    def drain(self) -> list[GpuEvent]:
        """Return the events since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def close(self) -> bool:
        """Stop the thread and free the event set. Returns `False` if the driver blocks: NVML must then stay loaded."""
        if not self._thread.stop(4 * WAIT_MS / 1000 + PAUSE_S):
            return False
        self._free()
        return True

    def _register(self) -> bool:
        """Create an event set of every GPU that supports events. Returns `False` if none does."""
        self._free()
        try:
            self._set = self._calls.ask("nvmlEventSetCreate")
        except DeviceLost:
            return False
        if isinstance(self._set, Support):
            return False
        registered = [self._registered(handle, device) for handle, device in self._gpus]
        if not any(registered):
            self._free()
        return any(registered)

    def _registered(self, handle: Any, device: Device) -> bool:
        try:
            answer = self._calls.ask("nvmlDeviceRegisterEvents", handle, XID, self._set, about=device.key)
        except DeviceLost:
            return False
        return not isinstance(answer, Support)

    def _free(self) -> None:
        if self._set is not None and not isinstance(self._set, Support):
            with suppress(DeviceLost):  # NVML was shut down
                self._calls.ask("nvmlEventSetFree", self._set)
        self._set = None

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                event = self._library.nvmlEventSetWait_v2(self._set, WAIT_MS)
            except self._library.NVMLError as error:
                if code_of(error) != TIMED_OUT and not self._recover(code_of(error)):
                    return
                continue
            self._receive(event)

    def _recover(self, code: int) -> bool:
        """Pause after a failed wait and drop lost GPUs. Returns `False` if no GPU is left."""
        self._stopping.wait(PAUSE_S)
        return code not in LOST or self._stopping.is_set() or self._register()

    def _receive(self, event: Any) -> None:
        device = self._by_address.get(address_of(event.device))
        if device is None or event.eventType != XID:
            return
        key = (device.id, str(event.gpuInstanceId))
        instance = self._instances.get(key) if event.gpuInstanceId != NO_INSTANCE else None
        self._events.append(GpuEvent(instance or device, int(event.eventData), self._clock()))


def address_of(handle: Any) -> int | None:
    """Return the address that identifies a handle: each call wraps the same address in a new object."""
    return ctypes.cast(handle, ctypes.c_void_p).value
