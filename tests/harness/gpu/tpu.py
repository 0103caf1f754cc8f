"""
A simulated libtpu: a gRPC server in this process that speaks the published `tpu_metric_service.proto`.

Its messages are built by protobuf from the complete published descriptor, independent of the source's own table. The
values are invented.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_otel.gpu.source import Options
from ai_otel.gpu.tpu.source import BANDWIDTH, DUTY_CYCLE, MEMORY_TOTAL, MEMORY_USED, TpuSource

REQUIRES: Sequence[Mapping[str, str]] = (
    {"module": "grpc", "why": "libtpu's metrics service is gRPC"},
    {"module": "google.protobuf", "why": "the simulated libtpu writes Google's own messages"},
)
SERVICE = "tpu.monitoring.runtime.RuntimeMetricService"
GIB = 2**30

# Of tpu_metric_service.proto: message → field → number, type, repeated, oneof.
PROTO: Mapping[str, Mapping[str, tuple[int, str, bool, str]]] = {
    "Timestamp": {"seconds": (1, "int64", False, ""), "nanos": (2, "int32", False, "")},
    "Gauge": {
        "as_double": (1, "double", False, "value"),
        "as_int": (2, "int64", False, "value"),
        "as_string": (3, "string", False, "value"),
        "as_bool": (4, "bool", False, "value"),
    },
    "AttrValue": {
        "string_attr": (1, "string", False, "attr"),
        "bool_attr": (2, "bool", False, "attr"),
        "int_attr": (3, "int64", False, "attr"),
        "double_attr": (4, "double", False, "attr"),
    },
    "Attribute": {"key": (1, "string", False, ""), "value": (2, "AttrValue", False, "")},
    "Metric": {
        "attribute": (1, "Attribute", False, ""),
        "timestamp": (2, "Timestamp", False, ""),
        "gauge": (3, "Gauge", False, "measure"),
    },
    "TPUMetric": {
        "name": (1, "string", False, ""),
        "description": (2, "string", False, ""),
        "metrics": (3, "Metric", True, ""),
    },
    "MetricRequest": {"metric_name": (1, "string", False, ""), "skip_node_aggregation": (2, "bool", False, "")},
    "MetricResponse": {"metric": (1, "TPUMetric", False, "")},
}


@functools.cache
def messages() -> Mapping[str, Any]:
    """Return the message classes, in a separate pool: `tpu-info` registers the same names in the default one."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="simulated_tpu_metric_service.proto", package="tpu.monitoring.runtime", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, rows in PROTO.items():
        message = file.message_type.add(name=name)
        groups = sorted({oneof for *_, oneof in rows.values() if oneof})
        for oneof in groups:
            message.oneof_decl.add(name=oneof)
        for field_name, (number, kind, repeated, oneof) in rows.items():
            row = message.field.add(
                name=field_name, number=number, label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            )
            if kind in PROTO:
                row.type, row.type_name = kinds.TYPE_MESSAGE, f".tpu.monitoring.runtime.{kind}"
            else:
                row.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if oneof:
                row.oneof_index = groups.index(oneof)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: _class(message_factory, pool, f"tpu.monitoring.runtime.{name}") for name in PROTO}


def _class(message_factory: Any, pool: Any, name: str) -> Any:
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf before 4.22


@dataclass
class Chips:
    """Values of the server by metric and device number. Other metrics are unknown to it."""

    values: dict[str, dict[int, float]] = field(
        default_factory=lambda: {
            DUTY_CYCLE: {0: 87.5, 1: 0.0},
            MEMORY_TOTAL: {0: 16 * GIB, 1: 16 * GIB},
            MEMORY_USED: {0: 12 * GIB, 1: 0},
            BANDWIDTH: {0: 40.0, 1: 0.0},
        }
    )
    text_ids: bool = False
    """Whether device numbers are texts, as in newer releases of libtpu."""
    codes: dict[str, str] = field(default_factory=dict)
    """Metric → name of the gRPC status that is returned."""
    asked: list[str] = field(default_factory=list)

    def response(self, metric: str) -> Any:
        """Return the `MetricResponse` of a metric."""
        response = messages()["MetricResponse"]()
        response.metric.name, response.metric.description = metric, "simulated"
        for number, value in self.values[metric].items():
            point = response.metric.metrics.add()
            point.attribute.key = "device-id"
            point.timestamp.seconds = 1_800_000_000
            if self.text_ids:
                point.attribute.value.string_attr = str(number)
            else:
                point.attribute.value.int_attr = number
            if metric.endswith("bytes"):
                point.gauge.as_int = int(value)
            else:
                point.gauge.as_double = value
        return response


TRUTH: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("tpu-0", None): {
        "utilization": 0.875,
        "memory_total_bytes": 16 * GIB,
        "memory_used_bytes": 12 * GIB,
        "memory_bandwidth_utilization": 0.4,
    },
    ("tpu-1", None): {
        "utilization": 0.0,
        "memory_total_bytes": 16 * GIB,
        "memory_used_bytes": 0,
        "memory_bandwidth_utilization": 0.0,
    },
}
"""Expected readings of `running()` by `Device.key`."""


@contextmanager
def served(chips: Chips) -> Iterator[str]:
    """Run the server on loopback; yields its address."""
    import grpc

    def answer(request: Any, context: Any) -> Any:
        chips.asked.append(request.metric_name)
        if (code := chips.codes.get(request.metric_name)) is not None:
            context.abort(grpc.StatusCode[code], "simulated")
        if request.metric_name not in chips.values:
            context.abort(grpc.StatusCode.NOT_FOUND, "simulated")
        return chips.response(request.metric_name)

    method = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=messages()["MetricRequest"].FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"GetRuntimeMetric": method}),))
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def running(directory: Path, scenario: Chips | None = None) -> Iterator[TpuSource]:
    """Yield an unopened production source and a simulated libtpu with the two chips of TRUTH."""
    del directory
    with served(scenario or Chips()) as address:
        source = TpuSource(Options(tpu_address=address))
        try:
            yield source
        finally:
            source.close()
