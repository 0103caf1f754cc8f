"""Every record of these tests is emitted both ways and compared."""

from harness.telemetry.both_ways import emitted_both_ways
from harness.telemetry.points_both_ways import measured_both_ways

__all__ = ["emitted_both_ways", "measured_both_ways"]
