"""Numbers of NVML that no export can carry."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_otel.gpu.source import Support
from harness.gpu import nvml
from harness.gpu.nvml import ALL_LINKS, Field, Gpu, fields_of_an_h200

pytestmark = pytest.mark.requires(**nvml.REQUIRES)


@pytest.mark.fault(
    "gpu",
    "an NVLink counter in KiB exceeds 64 bits in bytes",
    "the value is absent as `invalid`, and every other metric is exported",
)
def test_a_link_counter_beyond_64_bits_is_absent(tmp_path: Path) -> None:
    fields = {**fields_of_an_h200(), (138, ALL_LINKS): Field(float(2**55), "ullong")}
    with nvml.opened(tmp_path, Gpu(fields=fields)) as gpu:
        reading = gpu.read()
    assert ("nvlink", "transmit") not in reading.io_bytes
    assert reading.absent["io_bytes.nvlink.transmit"] is Support.INVALID
    assert ("nvlink", "receive") in reading.io_bytes
