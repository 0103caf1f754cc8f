"""
Messages of libtpu's metrics service: encodes `MetricRequest` and decodes the values of `MetricResponse`.

The field numbers are those of `tpu_metric_service.proto`, which Google publishes with `tpu-info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ai_otel.gpu import wire

PACKAGE = "tpu.monitoring.runtime"
TABLE: wire.Table = {
    "MetricRequest": {"metric_name": (1, "string")},
    "MetricResponse": {"metric": (1, "TPUMetric")},
    "TPUMetric": {"metrics": (3, "repeated Metric")},
    "Metric": {"attribute": (1, "Attribute"), "gauge": (3, "Measure"), "counter": (4, "Measure")},
    "Attribute": {"value": (2, "AttrValue")},
    "AttrValue": {"string_attr": (1, "optional string"), "int_attr": (3, "optional int64")},
    "Measure": {"as_double": (1, "optional double"), "as_int": (2, "optional int64")},
}
"""The fields that are read. `Gauge` and `Counter` have the same ones."""


@cache
def message_classes() -> Mapping[str, Any]:
    """Return the message classes by name. Raises `ImportError` if protobuf is not installed."""
    return wire.messages(PACKAGE, TABLE)


def encode_request(metric: str) -> bytes:
    """Return the bytes of a `MetricRequest` for a metric name."""
    encoded: bytes = message_classes()["MetricRequest"](metric_name=metric).SerializeToString()
    return encoded


def decode_response(response: bytes) -> Mapping[int, float]:
    """Return the values of a `MetricResponse` by device number. Raises `ValueError` if it is not decodable."""
    decoded = wire.decode(message_classes()["MetricResponse"], response)
    values = ((_number(each.attribute.value), _value(each)) for each in decoded.metric.metrics)
    return {number: value for number, value in values if number is not None and value is not None}


def _number(value: Any) -> int | None:
    """Return the device number: an integer in older releases of libtpu, a text in newer ones."""
    if value.HasField("int_attr"):
        return int(value.int_attr)
    return int(value.string_attr) if value.string_attr.isdecimal() else None


def _value(point: Any) -> float | None:
    for measure in (point.gauge, point.counter):
        for field in ("as_double", "as_int"):
            if measure.HasField(field):
                value: float = getattr(measure, field)
                return value
    return None
