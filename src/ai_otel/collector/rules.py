"""What must hold of every configuration that is shipped or rendered, besides what the Collector itself asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Tree = dict[str, Any]
KINDS = ("receivers", "processors", "exporters")


def violations(tree: Any, *, local: bool) -> Iterator[str]:
    """Each as a sentence that says where and what to do. `local`: the file says LOCAL, so it may do without TLS."""
    service = tree.get("service") if isinstance(tree, dict) else None
    pipelines = service.get("pipelines") if isinstance(service, dict) else None
    if not isinstance(pipelines, dict) or not pipelines:
        yield "there is no pipeline under service: this is no complete configuration"
        return
    for name, pipeline in pipelines.items():
        yield from _pipeline(name, _mapping(pipeline))
    yield from (f"{kind}: {name} is used by no pipeline" for kind in KINDS for name in _unused(tree, kind, pipelines))
    for name, exporter in _mapping(tree.get("exporters")).items():
        yield from _exporter(str(name), _mapping(exporter))
    if not local:
        yield from (
            f"{path}: insecure; give it a ca_file, or say LOCAL in the file's first lines"
            for path in _insecure(tree, "")
        )


def _mapping(given: Any) -> Tree:
    """What the Collector itself refuses where it is no mapping."""
    return given if isinstance(given, dict) else {}


def _texts(given: Any) -> list[str]:
    return [str(each) for each in given] if isinstance(given, list) else []


def _pipeline(name: str, pipeline: Tree) -> Iterator[str]:
    processors = _texts(pipeline.get("processors"))
    if not processors or not processors[0].startswith("memory_limiter"):
        yield f"{name}: memory_limiter must be its first processor, or nothing holds memory back"
    if any(processor.partition("/")[0] == "batch" for processor in processors):
        yield f"{name}: the batch processor loses what it has acknowledged; use sending_queue.batch of the exporter"


def _unused(tree: Tree, kind: str, pipelines: Tree) -> list[str]:
    used = {name for pipeline in pipelines.values() for name in _texts(_mapping(pipeline).get(kind))}
    return [str(name) for name in _mapping(tree.get(kind)) if str(name) not in used]


def _exporter(name: str, exporter: Tree) -> Iterator[str]:
    if name.partition("/")[0] in ("otlp", "otlp_grpc", "otlp_http", "load_balancing", "kafka"):
        if not _mapping(exporter.get("sending_queue")).get("enabled"):
            yield f"exporters: {name}: without a sending_queue a slow backend stops the whole pipeline"
        if _mapping(exporter.get("retry_on_failure")).get("enabled") is False:
            yield f"exporters: {name}: without retries a backend's hiccup is a loss"


def _insecure(tree: Any, path: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "insecure" and value is True:
                yield below
            yield from _insecure(value, below)
