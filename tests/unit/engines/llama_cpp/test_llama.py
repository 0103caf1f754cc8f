"""A waiting record of `llama_cpp.Llama` keeps neither the answer nor what the client sent."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

from ai_otel.engines.llama_cpp.llama import LlamaHooks
from ai_otel.hooks.arguments import Arguments
from records import WaitingRecorder


class Answer(dict[str, Any]):
    """An answer of which a weak reference can be made."""


class Vector(list[float]):
    """An embedding of which a weak reference can be made."""


class Stops(list[str]):
    """Stop sequences of which a weak reference can be made."""


def test_a_waiting_record_holds_no_object_of_the_call() -> None:
    recorder = WaitingRecorder()
    llama: Any = SimpleNamespace(model_path="/models/tiny.gguf")
    stops, vector = Stops(["s" * 1_000_000]), Vector([0.5] * 4096)
    answer = Answer(id="1", data=[{"embedding": vector}], usage={"prompt_tokens": 7, "completion_tokens": 5})
    references = [weakref.ref(stops), weakref.ref(vector), weakref.ref(answer)]
    gc.collect()
    gc.disable()
    watch = LlamaHooks(recorder).completion(llama, Arguments({}, (), {"stop": stops, "max_tokens": 5}))
    assert watch is not None
    assert watch.item is not None
    watch.last = answer
    watch.item(answer)
    watch.ended(None, closed=False)
    del watch, answer, vector, stops
    alive = [reference() for reference in references]
    gc.enable()
    assert alive == [None] * 3
    (inference,) = recorder.read().inferences
    assert (inference.embedding_dimensions, inference.input_tokens) == (4096, 7)
    assert (inference.parameters.max_tokens, inference.parameters.stop_sequences) == (5, ("s" * 1024,))
