"""Parses the published `.proto` files: messages as classes, methods by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HERE = Path(__file__).parent / "proto"

Described = descriptor_pb2.FieldDescriptorProto

_BLOCK = re.compile(r"\b(message|enum|service)\s+(\w+)\s*\{([^{}]*(?:\{\s*\}[^{}]*)*)\}")
_FIELD = re.compile(r"(?:(repeated|optional)\s+)?([\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;")
_VALUE = re.compile(r"(\w+)\s*=\s*(\d+)\s*;")
_METHOD = re.compile(r"rpc\s+(\w+)\s*\((\w+)\)\s*returns\s*\((stream\s+)?(\w+)\)")
_TYPES = {"string": 9, "bytes": 12, "int64": 3, "uint64": 4, "bool": 8}


@dataclass(frozen=True)
class Method:
    """One call of a service."""

    name: str
    request: str
    answer: str
    streams: bool


@dataclass(frozen=True)
class Proto:
    """A parsed file."""

    described: Any
    """Its `FileDescriptorProto`."""
    messages: Mapping[str, Any]
    services: Mapping[str, Mapping[str, Method]]
    """Service, by its full name → its methods by name."""


def read(name: str) -> Proto:
    """Parse a file of `proto/`."""
    text = re.sub(r"//[^\n]*", "", (HERE / name).read_text())
    syntax, package = found(r'syntax\s*=\s*"(\w+)"', text), found(r"package\s+([\w.]+)\s*;", text)
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax=syntax)
    blocks = [match.groups() for match in _BLOCK.finditer(text)]
    enums = {block[1] for block in blocks if block[0] == "enum"}
    services: dict[str, dict[str, Method]] = {}
    for kind, title, body in blocks:
        if kind == "message":
            message = file.message_type.add(name=title)
            for field in _fields(body, package, enums):
                _add(message, field, syntax)
        elif kind == "enum":
            enum = file.enum_type.add(name=title)
            for value, number in _VALUE.findall(body):
                enum.value.add(name=value, number=int(number))
        else:
            methods = [Method(each[0], each[1], each[3], bool(each[2])) for each in _METHOD.findall(body)]
            services[f"{package}.{title}"] = {method.name: method for method in methods}
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in file.message_type
    }
    return Proto(file, classes, services)


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern} in the file"
    return match.group(1)


def _fields(body: str, package: str, enums: set[str]) -> Iterator[tuple[str, Any]]:
    for label, kind, name, number in _FIELD.findall(body):
        field = Described(name=name, number=int(number))
        field.label = Described.LABEL_REPEATED if label == "repeated" else Described.LABEL_OPTIONAL
        if kind in _TYPES:
            field.type = _TYPES[kind]
        else:
            field.type = Described.TYPE_ENUM if kind in enums else Described.TYPE_MESSAGE
            field.type_name = f".{package}.{kind}"
        yield label, field


def _add(message: Any, labelled: tuple[str, Any], syntax: str) -> None:
    label, field = labelled
    if label == "optional" and syntax == "proto3":
        # In proto3, presence is a oneof of one field.
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")
    message.field.append(field)
