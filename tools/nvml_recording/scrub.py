"""Removes identifiers of the machine from a recording."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# A GPU's or MIG device's UUID, a bus id, and the older form of a MIG UUID.
UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
BUS = re.compile(r"\b[0-9a-fA-F]{8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]")
SERIALS = frozenset({"nvmlDeviceGetSerial"})
NUMBERS_OF_THE_MACHINE = frozenset({"busIdLegacy", "domain", "bus", "device", "pid", "timeStamp", "minor"})


class Scrubber:
    """Replaces each identifier by a number, so that a GPU and its instances still match."""

    def __init__(self) -> None:
        self._uuids: dict[str, str] = {}

    def scrub(self, value: Any, key: str = "") -> Any:
        """Return the value with its identifiers replaced."""
        if key in NUMBERS_OF_THE_MACHINE and not isinstance(value, (dict, list)):
            return type(value)()
        if isinstance(value, Mapping):
            under = {
                name: {**each, "value": "0"} if self._is_serial(name, each) else each for name, each in value.items()
            }
            return {name: self.scrub(each, name) for name, each in under.items()}
        if isinstance(value, list):
            return [self.scrub(each) for each in value]
        return BUS.sub("00000000:00:00.0", UUID.sub(self._numbered, value)) if isinstance(value, str) else value

    def _is_serial(self, name: str, row: Any) -> bool:
        return name in SERIALS and isinstance(row, Mapping) and row.get("value") is not None

    def _numbered(self, found: re.Match[str]) -> str:
        number = len(self._uuids) + 1
        return self._uuids.setdefault(found.group(), f"{found.group(1)}-00000000-0000-4000-8000-{number:012d}")
