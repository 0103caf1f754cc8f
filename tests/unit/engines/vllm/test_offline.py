"""A waiting record of an offline call keeps neither prompts nor answers."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engines.vllm.offline import OfflineHooks
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Outcome
from records import WaitingRecorder


class Held:
    """An object of the engine's, of which a weak reference can be made."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def params(**changes: Any) -> Held:
    names = (
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "frequency_penalty",
        "presence_penalty",
        "output_kind",
    )
    return Held(**{**dict.fromkeys(names), "n": 1, "top_k": 0, "seed": 7, **changes})


@pytest.mark.parametrize("error", [None, ValueError()], ids=["finished", "failed"])
def test_a_waiting_record_holds_no_object_of_the_call(error: ValueError | None) -> None:
    recorder = WaitingRecorder()
    hooks = OfflineHooks(recorder)
    llm: Any = SimpleNamespace(llm_engine=SimpleNamespace(model_config=SimpleNamespace(served_model_name="m")))
    sampling = params(stop=["s" * 1_000_000])
    references = [weakref.ref(sampling)]
    gc.collect()
    gc.disable()
    call = hooks.opener("generate")(llm, Arguments({}, (), {"sampling_params": sampling}))
    assert call is not None
    outputs: list[Any] = []
    for number in range(3):
        state = Held(request_id=str(number), prompt_len=9, is_prefilling=False, num_cached_tokens=0, stats=None)
        answer = Held(index=0, finish_reason="stop", token_ids=[1, 2])
        outputs.append(Held(prompt_token_ids=[0] * 9, outputs=[answer], finished=True))
        references += [weakref.ref(state), weakref.ref(answer), weakref.ref(outputs[-1])]
        call.collect(state)  # type: ignore[arg-type]
    hooks.ended(call, None if error else outputs, error)
    outputs.clear()
    del call, state, answer, sampling
    alive = [reference() for reference in references]
    gc.enable()
    assert alive == [None] * 10
    for inference in recorder.read().inferences:
        assert inference.input_tokens == 9
        assert inference.outcome is (Outcome.FAILED if error else Outcome.FINISHED)
        assert (inference.parameters.seed, len((inference.parameters.stop_sequences or ("",))[0])) == (7, 1024)
