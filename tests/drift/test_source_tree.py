"""The reader of sources, on a small package of its own: what the drift tests say of vLLM is only as good as this."""

from __future__ import annotations

from pathlib import Path

import pytest

from .source_tree import Absent, Kind, SourceTree

PACKAGE = {
    "engine/__init__.py": "from .core import Engine as Renamed\nAlias = Renamed\n",
    "engine/core.py": """
        import typing
        if typing.TYPE_CHECKING:
            from engine.mixin import Mixin, Answers
        else:
            try:
                from engine.mixin import Mixin, Answers
            except ImportError:
                Mixin = object

        class Engine(Mixin, Answers[int]):
            limit: int = 3
            def __init__(self, model, /, size=1, *, name="", **kwargs):
                self.model, self.size = model, size
                if "quiet" not in kwargs:
                    kwargs["quiet"] = True
            async def stream(self):
                yield 1
            async def wait(self):
                async def inner():
                    yield 1
                return [each async for each in inner()]
            def items(self):
                yield 1
            @typing.overload
            def run(self, old): ...
            def run(self, new): ...
            @property
            def ready(self): return True
        """,
    "engine/mixin.py": """
        class Answers:
            answers: list
        class Mixin:
            def encode(self, prompts): self.seen: int = 0
        """,
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (tmp_path / name).write_text("\n".join(line[indent:] for line in lines) + "\n")
    return SourceTree(tmp_path, "1.0")


@pytest.mark.parametrize("place", ["engine.core:Engine", "engine:Renamed", "engine:Alias"])
def test_a_class_is_found_through_imports_and_aliases(tree: SourceTree, place: str) -> None:
    assert tree.a_class(place).name == "engine.core:Engine"


def test_a_method_may_stand_in_a_base_class_of_another_module(tree: SourceTree) -> None:
    assert tree.function("engine:Renamed.encode").parameters == ("prompts",)


def test_fields_are_declared_assigned_inherited_or_computed(tree: SourceTree) -> None:
    assert {"limit", "model", "size", "ready", "seen", "answers", "encode"} <= tree.fields("engine.core:Engine")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("stream", Kind.ASYNC_GENERATOR),
        ("wait", Kind.COROUTINE),
        ("items", Kind.GENERATOR),
        ("run", Kind.FUNCTION),
    ],
)
def test_the_kind_of_a_function_is_its_own_and_not_that_of_one_inside_it(
    tree: SourceTree, method: str, kind: Kind
) -> None:
    assert tree.function(f"engine.core:Engine.{method}").kind is kind


def test_the_last_definition_counts(tree: SourceTree) -> None:
    assert tree.function("engine.core:Engine.run").parameters == ("new",)


def test_a_key_in_kwargs_counts_only_where_the_body_names_it(tree: SourceTree) -> None:
    function = tree.function("engine.core:Engine.__init__")
    assert function.parameters == ("model", "size", "name")
    assert function.takes("quiet")
    assert not function.takes("quite")


@pytest.mark.parametrize(
    "target",
    ["engine.cor:Engine.run", "engine.core:Engin.run", "engine.core:Engine.rum", "engine.core:run", "engine.core:Any"],
)
def test_a_misspelt_name_is_absent(tree: SourceTree, target: str) -> None:
    with pytest.raises(Absent, match=r"1\.0"):
        tree.function(target)
