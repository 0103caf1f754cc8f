"""
Protobuf message classes, built at run time from tables of the fields that are read.

Generated code requires a protobuf release at least as new as its generator, and registers names (`api.proto`,
`v1.PodResources`) that other code of the process may use. These tables work with every protobuf release that OTLP
works with, in a descriptor pool of their own. Tests compare them with the published files.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

Table = Mapping[str, Mapping[str, tuple[int, str]]]
"""
Message → field → number and type: the name of a scalar or a message. The prefix `repeated ` marks lists, `optional `
scalars whose presence is recorded.
"""

_SCALARS = {"double": 1, "int64": 3, "string": 9, "bytes": 12}
"""Scalar → `FieldDescriptorProto.Type`."""
_MESSAGE = 11
_OPTIONAL, _REPEATED = 1, 3


def messages(package: str, table: Table) -> Mapping[str, Any]:
    """Return the classes of a table's messages by name. Raises `ImportError` if protobuf is not installed."""
    pb2, pools, factory = (
        importlib.import_module(f"google.protobuf.{name}")
        for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    file = pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind, package)
    pool = pools.DescriptorPool()
    pool.Add(file)
    return {name: factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}


def decode(message: Any, data: bytes) -> Any:
    """Return the decoded message of a class. Raises `ValueError` if the bytes are no such message."""
    errors = importlib.import_module("google.protobuf.message")
    try:
        return message.FromString(data)
    except errors.DecodeError as error:
        raise ValueError(str(error)) from None


def _add(message: Any, name: str, number: int, kind: str, package: str) -> None:
    label, _, type_ = kind.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_REPEATED if label == "repeated" else _OPTIONAL)
    if type_ in _SCALARS:
        field.type = _SCALARS[type_]
    else:
        field.type, field.type_name = _MESSAGE, f".{package}.{type_}"
    if label == "optional":
        # In proto3, presence is a oneof of one field.
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
