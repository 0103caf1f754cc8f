"""Real vLLM, offline: the `LLM` class reports as much as the server."""

from __future__ import annotations

import json

import oracle
import pytest

import parts
from harness.clients.vllm import run_offline
from harness.telemetry.sink import Sink

pytestmark = pytest.mark.requires(part="vllm")

GENERATE = """
import json
from vllm import LLM, SamplingParams
llm = LLM({model!r}, served_model_name="tiny", enforce_eager=True, max_model_len=512, dtype="float32")
prompts = ["hello world", "kubernetes observability is", "a third one"]
outputs = llm.generate(prompts, SamplingParams(max_tokens=6, n=2, ignore_eos=True), use_tqdm=False)
chat = llm.chat([{{"role": "user", "content": "hi"}}], SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)
try:
    llm.generate("word " * 4000, use_tqdm=False)
except Exception as error:
    refused = type(error).__name__
print("RESULT", json.dumps({{
    "input": [len(o.prompt_token_ids) for o in outputs],
    "output": [sum(len(c.token_ids) for c in o.outputs) for o in outputs],
    "chat": len(chat[0].prompt_token_ids), "refused": refused,
}}))
"""

POOLING = """
import json
from vllm import LLM
pooling = {{"runner": "pooling", "convert": {convert!r}}}
llm = LLM({model!r}, served_model_name="tiny", enforce_eager=True, max_model_len=512, dtype="float32", **pooling)
result = {{"embed": 0, "score": 0, "classify": 0}}
texts = ["hello world", "kubernetes observability is"]
if {convert!r} == "embed":
    result["embed"] = sum(len(o.prompt_token_ids) for o in llm.embed(texts, use_tqdm=False))
    result["score"] = len(llm.score(texts[0], texts, use_tqdm=False))
else:
    result["classify"] = sum(len(o.prompt_token_ids) for o in llm.classify(texts, use_tqdm=False))
print("RESULT", json.dumps(result))
"""


def result_of(output: str) -> dict[str, object]:
    """The program's own counts."""
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return dict(json.loads(line.removeprefix("RESULT ")))


def test_generate_and_chat_report_tokens_and_phases(installed: parts.VllmEnvironment, sink: Sink) -> None:
    """Statistics are on without being asked for, so queue, prefill and decode are known."""
    reported = result_of(run_offline(installed, sink, GENERATE.format(model=str(installed.model))))
    roots = {root.name: root for tree in sink.trees().values() for root in tree if "refused" not in root.name}
    call = roots["text_completion tiny"]
    inferences = sorted((span for span in call.children), key=lambda span: span.attributes["gen_ai.usage.input_tokens"])
    assert [i.attributes["gen_ai.usage.input_tokens"] for i in inferences] == sorted(reported["input"])
    assert [i.attributes["gen_ai.usage.output_tokens"] for i in inferences] == reported["output"] == [12, 12, 12]
    assert call.attributes["gen_ai.usage.input_tokens"] == sum(reported["input"])
    assert {child.name for i in inferences for child in i.children} == {"queue", "prefill", "decode"}
    assert roots["chat tiny"].attributes["gen_ai.usage.input_tokens"] == reported["chat"]
    outcomes = sorted(root.attributes["ai_otel.outcome"] for tree in sink.trees().values() for root in tree)
    assert outcomes == ["finished", "finished", "rejected"]
    assert sink.total("ai_otel.usage.output_tokens") == 40
    assert sink.total("ai_otel.usage.input_tokens") == 2 * sum(reported["input"]) + reported["chat"]
    assert oracle.check_spans(sink.traces) == []
    assert oracle.check_metrics(sink.metrics) == []


def test_embed_and_score(installed: parts.VllmEnvironment, sink: Sink) -> None:
    reported = result_of(run_offline(installed, sink, POOLING.format(model=str(installed.model), convert="embed")))
    roots = {root.attributes["gen_ai.operation.name"]: root for tree in sink.trees().values() for root in tree}
    assert set(roots) == {"embeddings", "score"}
    assert roots["embeddings"].attributes["gen_ai.usage.input_tokens"] == reported["embed"]
    assert all(root.attributes["ai_otel.outcome"] == "finished" for root in roots.values())


def test_classify(installed: parts.VllmEnvironment, sink: Sink) -> None:
    reported = result_of(run_offline(installed, sink, POOLING.format(model=str(installed.model), convert="classify")))
    ((root,),) = sink.trees().values()
    assert root.attributes["gen_ai.operation.name"] == "classify"
    assert root.attributes["gen_ai.usage.input_tokens"] == reported["classify"]
