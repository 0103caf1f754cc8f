"""
Messages of the kubelet's interfaces, made when they are needed from what we read of them.

Generated code asks for a protobuf at least as new as its generator, and stands under names (`api.proto`,
`v1.PodResources`) that others of the same process may use. Tables like these work with every protobuf that OTLP does,
in a pool of their own; that they agree with the published files is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped, unused-ignore]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

Table = Mapping[str, Mapping[str, tuple[int, str]]]
"""Message → field → its number, and its type: a scalar's or a message's name, `repeated` before it where it is."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES}


def messages(package: str, table: Table) -> Mapping[str, Any]:
    """The classes of a table's messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            described = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if kind.startswith("repeated "):
                described.label = _Field.LABEL_REPEATED
            _type(described, kind.removeprefix("repeated "), package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}


def _type(described: Any, kind: str, package: str) -> None:
    if kind in _SCALARS:
        described.type = _SCALARS[kind]
    else:
        described.type, described.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
