"""The stand-in for llama-cpp-python, and what the adapter takes for granted, held against the real sources."""

from __future__ import annotations

import ast
import functools
import os
from pathlib import Path
from typing import Any

import pytest

from ai_otel.engines.llama_cpp import LlamaCppAdapter

from . import sdist

FAKE = Path(__file__).parent / "fake/llama_cpp/llama.py"
EVERYTHING = os.environ.get("AI_OTEL_TEST_ALL", "") not in {"", "0"}
METHODS = (
    "__call__",
    "create_chat_completion",
    "create_completion",
    "create_embedding",
    "embed",
    "generate",
)


@pytest.fixture(params=sdist.VERSIONS)
def real(request: pytest.FixtureRequest) -> Path:
    if EVERYTHING:
        sdist.ensure()
    directory = sdist.SOURCES.find(request.param)
    if directory is None:
        pytest.skip(
            "the sources of llama-cpp-python are not in the cache; next: python tests/engines/llama_cpp/sdist.py"
        )
    return directory / "llama_cpp"


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def method(path: Path, name: str) -> ast.FunctionDef:
    (cls,) = [node for node in parsed(path).body if isinstance(node, ast.ClassDef) and node.name == "Llama"]
    (found,) = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def parameters(function: ast.FunctionDef) -> list[str]:
    return [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]


def defaults(function: ast.FunctionDef) -> list[Any]:
    return [ast.literal_eval(each) for each in function.args.defaults]


def is_generator(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in ast.walk(function))


def calls(function: ast.FunctionDef) -> set[str]:
    """Methods of `self` that it calls."""
    functions = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    attributes = [each for each in functions if isinstance(each, ast.Attribute)]
    return {each.attr for each in attributes if isinstance(each.value, ast.Name) and each.value.id == "self"}


@pytest.mark.parametrize("name", METHODS)
def test_the_stand_in_takes_what_the_engine_takes(real: Path, name: str) -> None:
    emitted, theirs = method(FAKE, name), method(real / "llama.py", name)
    assert parameters(emitted) == parameters(theirs)
    assert defaults(emitted) == defaults(theirs)
    assert is_generator(emitted) == is_generator(theirs)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_reads_parameters_that_the_engine_has(real: Path, name: str) -> None:
    rows = [point for point in LlamaCppAdapter.hooks if point.target == f"llama_cpp.llama:Llama.{name}"]
    assert [
        read for point in rows for read in point.reads if read not in parameters(method(real / "llama.py", name))
    ] == []


def test_who_calls_whom_is_as_in_the_stand_in(real: Path) -> None:
    """So one call of the caller is one request, whichever methods it goes through."""
    engine = real / "llama.py"
    assert "create_completion" in calls(method(engine, "__call__"))
    assert "_create_completion" in calls(method(engine, "create_completion"))
    assert "generate" in calls(method(engine, "_create_completion"))
    assert is_generator(method(engine, "_create_completion"))
    assert "embed" in calls(method(engine, "create_embedding"))
    formats = ast.unparse(parsed(real / "llama_chat_format.py"))
    assert "llama.create_completion(" in formats
    assert "llama.generate(" not in formats


def test_the_engine_reports_an_end_as_we_ask_it(real: Path) -> None:
    names = {node.name for node in parsed(real / "llama_cpp.py").body if isinstance(node, ast.FunctionDef)}
    completion = ast.unparse(method(real / "llama.py", "_create_completion"))
    assert "llama_vocab_is_eog" in names
    assert "_is_eog(self._model.vocab, token)" in completion
    assert completion.index("_is_eog(") < completion.index("completion_tokens.append(token)")
    assert "self.vocab = vocab" in (real / "_internals.py").read_text()
    assert "self.model_path = model_path" in ast.unparse(method(real / "llama.py", "__init__"))


def test_only_a_whole_answer_has_a_usage(real: Path) -> None:
    """And it counts what was generated, less the end."""
    completion = ast.unparse(method(real / "llama.py", "_create_completion"))
    assert completion.count("'usage'") == 1
    assert "'completion_tokens': len(completion_tokens)" in completion
    assert "'prompt_tokens': len(prompt_tokens)" in completion
    assert "exceed context window" in completion


def test_the_page_shows_every_row_and_the_versions_that_are_checked() -> None:
    page = (Path(__file__).parents[3] / "docs/engines/llama_cpp.md").read_text()
    for point in LlamaCppAdapter.hooks:
        assert f"| `{point.target}` | {point.rung.value} | `{point.versions}` |" in page
    assert [version for version in (*sdist.VERSIONS, *LlamaCppAdapter.tested) if version not in page] == []
