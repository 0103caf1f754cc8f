"""
An engine for tests: a model server's functions of every kind, and the adapter that observes them.

`install()` puts a fresh one among the imported modules, so that a test may wrap it as it likes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ai_otel.engines import EngineEntry
from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.imports import IMPORTS
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.record import Choice, Inference, Outcome, clock
from ai_otel.recorder import Recorder

MODULE = "fake_engine_server"
VERSION = "1.5"

SOURCE = """
__version__ = "1.5"

class Parent:
    def inherited(self, a, b=None, *rest, **more):
        return self.answer((self, a, b, rest, more))

class Server(Parent):
    model = "tiny"

    def __init__(self, answer=lambda given: given, **options):
        self.answer = answer
        self.options = options

    def call(self, a, b=None, *rest, **more):
        return self.answer((self, a, b, rest, more))

    async def coroutine(self, a, b=None, *rest, **more):
        return self.answer((self, a, b, rest, more))

    def stream(self, a, b=None, *rest, **more):
        yield from self.answer((self, a, b, rest, more))

    async def async_stream(self, a, b=None, *rest, **more):
        for item in self.answer((self, a, b, rest, more)):
            yield item

    @staticmethod
    def static(a, b=None):
        return (a, b)

    @classmethod
    def of_class(cls, a, b=None):
        return (cls, a, b)

    async def generate(self, prompt, request_id=None, trace_headers=None):
        for piece in prompt.split():
            if piece == "FAIL":
                raise RuntimeError("the engine broke")
            yield piece

class Child(Server):
    pass

def plain(a, b=None, *, only=3):
    return (a, b, only)

def whole_or_pieces(a, stream=False):
    return iter(a) if stream else a
"""


def fresh() -> Any:
    """The engine's module, newly made."""
    module = ModuleType(MODULE)
    exec(compile(SOURCE, MODULE, "exec"), vars(module))
    return module


def forget(*names: str) -> None:
    """Take modules away so that the next imports of these names are new to all hooks."""
    for name in names:
        sys.modules.pop(name, None)
        IMPORTS._waiting.pop(name, None)


def write_package(folder: Path, name: str = "vllm", version: str = "0.32.0", source: str = "") -> None:
    """A package of an engine's name, to be imported from `folder`; it has no functions unless `source` defines some."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\n{source}")


@contextmanager
def install(version: str = VERSION) -> Iterator[Any]:
    """A fresh engine, imported until the block ends."""
    module = fresh()
    module.__version__ = version
    sys.modules[MODULE] = module
    try:
        yield module
    finally:
        forget(MODULE)


def at(path: str, versions: str = ">=1,<2") -> HookPoint:
    """A row of the table."""
    return HookPoint(f"{MODULE}:{path}", reads=("a", "b"), versions=versions, rung=Rung.PUBLIC, why="A test listens.")


GENERATE = HookPoint(
    f"{MODULE}:Server.generate",
    reads=("prompt", "request_id", "trace_headers"),
    versions=">=1,<2",
    rung=Rung.PUBLIC,
    why="Every request passes here.",
)
CALL = at("Server.call")


class GenerateListener:
    """Fills one inference from one stream of words."""

    def __init__(self, recorder: Recorder, inference: Inference, prompt: str) -> None:
        self._recorder = recorder
        self._prompt = prompt
        self._pieces = 0
        self.inference = inference
        self.item = self._item
        self.last: Any = None

    def _item(self, _: str) -> None:
        self._pieces += 1
        if self.inference.first_token_ns is None:
            self.inference.first_token_ns = clock(self.inference)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The stream is over."""
        self.inference.read_engine = self._read_engine
        if isinstance(error, Exception):
            self._recorder.end(self.inference, Outcome.FAILED, type(error).__name__)
        elif error is not None or closed:
            self._recorder.end(self.inference, Outcome.CANCELLED, "cancelled")
        else:
            self._recorder.end(self.inference, Outcome.FINISHED)

    def _read_engine(self, inference: Inference) -> None:
        done = inference.outcome is Outcome.FINISHED
        count = len(self._prompt.split())
        inference.input_tokens, inference.output_tokens = count, self._pieces
        inference.finish_reasons = ("stop",) if done else None
        inference.choices.append(
            Choice("stop" if done else None, done, counted_input_tokens=count, output_tokens=self._pieces)
        )


class FakeAdapter:
    """Observes `Server.generate`."""

    name = "fake"
    packages = (MODULE,)
    distributions = ("fake-engine",)
    hooks = (GENERATE, CALL)
    tested = ("1.0", "1.9")

    def attach(self, recorder: Recorder, hooks: Patcher) -> None:
        """Register the hooks."""

        def watch(server: Any, arguments: Arguments) -> GenerateListener:
            request_id = arguments.get("request_id")
            inference = Inference("fake", "chat", request_id, server.model, server.model, stream=True)
            recorder.begin(inference, arguments.get("trace_headers"))
            return GenerateListener(recorder, inference, arguments.get("prompt"))

        hooks.async_stream(GENERATE, watch)
        hooks.call(CALL, lambda _server, _arguments: None)


ENGINE = EngineEntry("fake_engine:FakeAdapter", (MODULE,))
"""The row that makes it known: `{"fake": ENGINE}`."""


async def collect(stream: AsyncIterator[Any]) -> list[Any]:
    """Everything that a stream yields."""
    return [item async for item in stream]
