"""NVML calls with their raw return codes, types, values and latencies."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SUCCESS = 0
FUNCTION_NOT_FOUND = 13
ALL_LINKS = 0xFFFFFFFF
SCOPED = frozenset({138, 139, 140, 141})
"""Fields whose scope is a link: read for link 0 and for all links."""
WITH_MODULE = frozenset({185, 186, 187, 188, 189, 190, 191, 192})
"""Fields whose scope is the GPU, or the module with its CPU."""
BY_TYPE = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
TYPE_NAMES = {0: "double", 1: "uint", 2: "ulong", 3: "ullong", 4: "sllong", 5: "sint", 6: "ushort"}

FIELDS: Sequence[int] = (
    *(1, 2, 3, 4, 5, 6, 74, 75, 76, 77, 78, 79, 82, 83, 91, 94, 138, 139, 140, 141, 142, 143, 144, 145, 169),
    *range(173, 193),
    *(193, 194, 195, 196, 197, 198, 226, 227, 230, 251, 252, 253, 256, 269, 270, 271),
)
"""All fields of the source and their neighbours, which record a driver's answer to unknown ids."""
GPM_READ: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21, 60, 61)
GPM_COUNTERS: Sequence[int] = tuple(range(248, 262))
"""Metrics of newer drivers: cycles and bytes since the start, instead of a mean between two samples."""

CALLS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "nvmlDeviceGetName": ("nvmlDeviceGetName", ()),
    "nvmlDeviceGetUUID": ("nvmlDeviceGetUUID", ()),
    "nvmlDeviceGetSerial": ("nvmlDeviceGetSerial", ()),
    "nvmlDeviceGetVbiosVersion": ("nvmlDeviceGetVbiosVersion", ()),
    "nvmlDeviceGetPciInfo_v3": ("nvmlDeviceGetPciInfo_v3", ()),
    "nvmlDeviceGetMinorNumber": ("nvmlDeviceGetMinorNumber", ()),
    "nvmlDeviceGetPersistenceMode": ("nvmlDeviceGetPersistenceMode", ()),
    "nvmlDeviceGetArchitecture": ("nvmlDeviceGetArchitecture", ()),
    "nvmlDeviceGetCudaComputeCapability": ("nvmlDeviceGetCudaComputeCapability", ()),
    "nvmlDeviceGetMaxPcieLinkGeneration": ("nvmlDeviceGetMaxPcieLinkGeneration", ()),
    "nvmlDeviceGetMaxPcieLinkWidth": ("nvmlDeviceGetMaxPcieLinkWidth", ()),
    "nvmlDeviceGetMigMode": ("nvmlDeviceGetMigMode", ()),
    "nvmlDeviceGetMemoryInfo": ("nvmlDeviceGetMemoryInfo", ()),
    "nvmlDeviceGetMemoryInfo_v2": ("nvmlDeviceGetMemoryInfo", (0x02000028,)),
    "nvmlDeviceGetUtilizationRates": ("nvmlDeviceGetUtilizationRates", ()),
    "nvmlDeviceGetEncoderUtilization": ("nvmlDeviceGetEncoderUtilization", ()),
    "nvmlDeviceGetDecoderUtilization": ("nvmlDeviceGetDecoderUtilization", ()),
    "nvmlDeviceGetClockInfo graphics": ("nvmlDeviceGetClockInfo", (0,)),
    "nvmlDeviceGetClockInfo sm": ("nvmlDeviceGetClockInfo", (1,)),
    "nvmlDeviceGetClockInfo memory": ("nvmlDeviceGetClockInfo", (2,)),
    "nvmlDeviceGetClockInfo video": ("nvmlDeviceGetClockInfo", (3,)),
    "nvmlDeviceGetTemperature": ("nvmlDeviceGetTemperature", (0,)),
    "nvmlDeviceGetTemperatureV": ("nvmlDeviceGetTemperatureV", (0,)),
    "nvmlDeviceGetTemperatureThreshold 0": ("nvmlDeviceGetTemperatureThreshold", (0,)),
    "nvmlDeviceGetTemperatureThreshold 1": ("nvmlDeviceGetTemperatureThreshold", (1,)),
    "nvmlDeviceGetTemperatureThreshold 2": ("nvmlDeviceGetTemperatureThreshold", (2,)),
    "nvmlDeviceGetTemperatureThreshold 3": ("nvmlDeviceGetTemperatureThreshold", (3,)),
    "nvmlDeviceGetPowerUsage": ("nvmlDeviceGetPowerUsage", ()),
    "nvmlDeviceGetTotalEnergyConsumption": ("nvmlDeviceGetTotalEnergyConsumption", ()),
    "nvmlDeviceGetNumFans": ("nvmlDeviceGetNumFans", ()),
    "nvmlDeviceGetFanSpeed_v2": ("nvmlDeviceGetFanSpeed_v2", (0,)),
    "nvmlDeviceGetSupportedEventTypes": ("nvmlDeviceGetSupportedEventTypes", ()),
    "nvmlGpmQueryDeviceSupport": ("nvmlGpmQueryDeviceSupport", ()),
    "nvmlDeviceGetProcessUtilization": ("nvmlDeviceGetProcessUtilization", (0,)),
    "nvmlDeviceGetComputeRunningProcesses_v3": ("nvmlDeviceGetComputeRunningProcesses_v3", ()),
    "nvmlDeviceGetComputeRunningProcesses_v2": ("nvmlDeviceGetComputeRunningProcesses_v2", ()),
}
"""Symbol of the library, with a suffix for its arguments → the binding's function and arguments."""


class Nvml:
    """The binding, with NVML initialized."""

    def __init__(self) -> None:
        import pynvml

        self.binding: Any = pynvml
        self.binding.nvmlInit()

    def close(self) -> None:
        """Shut NVML down."""
        self.binding.nvmlShutdown()

    def handles(self) -> list[Any]:
        """Return the handle of every GPU of this container."""
        return [self.binding.nvmlDeviceGetHandleByIndex(index) for index in range(self.binding.nvmlDeviceGetCount())]

    def code(self, call: Callable[[], Any]) -> tuple[int, Any]:
        """Return return code and result of a call."""
        try:
            return SUCCESS, call()
        except self.binding.NVMLError as error:
            return int(error.value), None

    def ask(self, name: str, *arguments: Any) -> tuple[int, Any]:
        """Return return code and result of a function; a missing one has the code of an outdated library."""
        function = getattr(self.binding, name, None)
        return (FUNCTION_NOT_FOUND, None) if function is None else self.code(lambda: function(*arguments))

    def field(self, handle: Any, number: int, scope: int = 0) -> Any:
        """Return one value of `nvmlDeviceGetFieldValues`, or the call's return code."""
        code, values = self.ask("nvmlDeviceGetFieldValues", handle, [(number, scope)])
        return code or values[0]

    def number(self, handle: Any, number: int, scope: int = 0) -> float | None:
        """Return the value of one field; `None` if it has none."""
        answer = self.field(handle, number, scope)
        if isinstance(answer, int) or answer.nvmlReturn:
            return None
        value = getattr(answer.value, BY_TYPE.get(answer.valueType, ""), None)
        return None if value is None else float(value)

    def energy_j(self, handle: Any) -> float | None:
        """Return the energy counter in joules; `None` if unavailable."""
        code, millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        return None if code else millijoules / 1000

    @property
    def simulated(self) -> bool:
        """Whether the library is the tests' simulation."""
        return hasattr(ctypes.CDLL("libnvidia-ml.so.1"), "ai_otel_fake_nvml_use")


def plain(answer: Any) -> Any:
    """Convert a result for JSON: structures become objects."""
    if isinstance(answer, ctypes.Structure):
        return {each[0]: plain(getattr(answer, each[0])) for each in answer._fields_}
    if isinstance(answer, (list, tuple)):
        return [plain(each) for each in answer]
    if isinstance(answer, bytes):
        return answer.decode(errors="replace")
    if isinstance(answer, (int, float, str)) or answer is None:
        return answer
    return {name: plain(value) for name, value in vars(answer).items()} if hasattr(answer, "__dict__") else None


def latencies_us(call: Callable[[], Any], times: int, budget_s: float = 0.5) -> dict[str, float]:
    """Return median and 99th percentile of a call's duration in microseconds."""
    took: list[float] = []
    until = time.perf_counter() + budget_s
    while len(took) < times and (len(took) < 2 or time.perf_counter() < until):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e6)
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {"n": len(took), "p50_us": round(cuts[49], 2), "p99_us": round(cuts[98], 2), "max_us": round(max(took), 2)}
