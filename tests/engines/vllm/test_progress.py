"""Real vLLM: the progress of each running request is read from another thread."""

from __future__ import annotations

import json

import pytest

import parts
from harness.clients.vllm import run_offline
from harness.telemetry.sink import Sink

pytestmark = pytest.mark.requires(part="vllm")

FOLLOW = """
import json, threading, time
from collections import deque
from vllm import LLM, SamplingParams
from ai_otel.start import current
llm = LLM({model!r}, served_model_name="tiny", enforce_eager=True, max_model_len=512, dtype="float32")
llm.generate("warm up", SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)

begun, reported, over = deque(), {{}}, threading.Event()
current().recorder.follow(begun)

def follow():
    followed = []
    ending = False
    while not ending:
        ending = over.is_set()
        while begun:
            inference = begun.popleft()
            followed.append((inference, inference.progress, inference.start_ns))
        for number, (inference, read, start_ns) in enumerate(followed):
            reported.setdefault(number, []).append([*read(), (time.time_ns() - start_ns) / 1e9, start_ns])
        time.sleep(0.002)

thread = threading.Thread(target=follow)
thread.start()
sampling = [SamplingParams(max_tokens=200, n=n, ignore_eos=True) for n in (1, 3)]
outputs = llm.generate(["hello world", "kubernetes observability is"], sampling, use_tqdm=False)
over.set()
thread.join()
print("RESULT", json.dumps({{
    "reported": list(reported.values()),
    "prompts": [len(o.prompt_token_ids) for o in outputs],
    "choices": [1, 3],
    "tokens": [sum(len(c.token_ids) for c in o.outputs) for o in outputs],
}}))
"""


def test_progress_grows_to_what_was_produced(installed: parts.VllmEnvironment, sink: Sink) -> None:
    output = run_offline(installed, sink, FOLLOW.format(model=str(installed.model)))
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    assert len(result["reported"]) == 2
    for reported, prompt, choices, tokens in zip(
        result["reported"], result["prompts"], result["choices"], result["tokens"], strict=True
    ):
        produced = [each[2] for each in reported]
        assert produced == sorted(produced)
        assert produced[-1] == tokens
        assert len(set(produced)) > 5  # it was seen on its way
        assert reported[-1][0] == prompt * choices
        assert [each[3] for each in reported] == sorted((each[3] for each in reported), reverse=True)  # once done, done
        *_, first_token_ns, prefill_s, after_s, start_ns = reported[-1]
        assert start_ns < first_token_ns < start_ns + after_s * 1e9
        assert 0 < prefill_s < (first_token_ns - start_ns) / 1e9
