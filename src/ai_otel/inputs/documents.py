"""
YAML files that a user names: read within bounds of size, depth and expansion.

Aliases share what they name, so that a file of 1 kB can stand for more nodes than any memory holds. Parsing it is
cheap; every walk over the result is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_otel.inputs.shown import shown

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 2_000_000
MAX_NODES = 100_000
"""Nodes with every alias expanded. The largest configuration that ai-otel renders has some thousand."""
MAX_DEPTH = 100


class DocumentError(ValueError):
    """A file cannot be used; the message is one line."""


def read_text(file: Path, most: int = MAX_BYTES) -> str:
    """The text of a file; raises `DocumentError`, also for one of more than `most` bytes."""
    try:
        with file.open("rb") as opened:
            content = opened.read(most + 1)
        if len(content) > most:
            raise DocumentError(f"it is larger than {most} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise DocumentError(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:  # a NUL in its name
        raise DocumentError(shown(error)) from None


def parse(text: str) -> Any:
    """The content of a YAML document, of plain Python types; raises `DocumentError`."""
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            _check_depth(text)
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise DocumentError(f"{where}{shown(error.problem or error.context or 'it is not YAML')}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        # Some scalars cannot be constructed: a date with a 13th month, an integer of 5,000 digits.
        raise DocumentError(shown(" ".join(str(error).split()))) from None
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None


def _check_depth(text: str) -> None:
    """Before the parser, whose recursion is as deep as the document."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise DocumentError(f"it is nested more than {MAX_DEPTH} levels deep")


def _check_size(root: yaml.Node) -> None:
    import yaml

    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise DocumentError("an alias names what contains it")
        if id(node) not in sizes:
            inner: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                inner = [each for pair in node.value for each in pair]
            elif isinstance(node, yaml.SequenceNode):
                inner = node.value
            sizes[id(node)] = 1 + sum(size(each, above | {id(node)}) for each in inner)
            if sizes[id(node)] > MAX_NODES:
                raise DocumentError(f"it has more than {MAX_NODES} nodes, aliases expanded")
        return sizes[id(node)]

    size(root, frozenset())
