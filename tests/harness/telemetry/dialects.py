"""Spans as the SDKs of the dialects send them, and what has to become of each."""

from __future__ import annotations

from collections.abc import Mapping

from harness.telemetry.otlp_json import Tree

# As the SDKs of these versions send them; values shortened.
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.system": "openai",
    "llm.provider": "azure",
    "llm.model_name": "gpt-4o",
    "llm.request.model_name": "gpt-4o",
    "llm.response.model_name": "gpt-4o-2024-08-06",
    "llm.invocation_parameters": '{"model": "gpt-4o", "temperature": 0, "max_tokens": 512, "seed": 7, "stop": "###", '
    '"stream": true, "user": "u-1"}',
    "llm.token_count.prompt": 42,
    "llm.token_count.completion": 17,
    "llm.token_count.total": 59,
    "llm.token_count.prompt_details.cache_read": 12,
    "llm.token_count.prompt_details.cache_write": 3,
    "llm.token_count.prompt_details.cache_input": 15,
    "llm.token_count.completion_details.reasoning": 5,
    "llm.finish_reason": "stop",
    "llm.input_messages.0.message.role": "user",
    "session.id": "s-1",
    "agent.name": "planner",
    "metadata": '{"tier": "gold"}',
    "tag.tags": ["a", "b"],
}
OPENLLMETRY_OLD = {
    "llm.vendor": "OpenAI",
    "llm.request.type": "chat",
    "llm.request.model": "gpt-3.5-turbo",
    "llm.response.model": "gpt-3.5-turbo-0125",
    "llm.request.max_tokens": "256",
    "llm.usage.prompt_tokens": 42,
    "llm.usage.completion_tokens": 17,
    "llm.usage.total_tokens": 59,
    "llm.temperature": 0.2,
    "llm.top_p": 1,
    "llm.frequency_penalty": 0.5,
    "llm.presence_penalty": 0.25,
    "llm.chat.stop_sequences": ["###"],
    "llm.is_streaming": True,
    "llm.headers": "None",
    "traceloop.workflow.name": "joke",
    "traceloop.association.properties.user": "u-1",
}
OPENLLMETRY = {
    "gen_ai.system": "Anthropic",
    "gen_ai.request.model": "claude-sonnet-4",
    "llm.request.type": "completion",
    "gen_ai.usage.prompt_tokens": 42,
    "gen_ai.usage.completion_tokens": 17,
    "gen_ai.usage.cache_read_input_tokens": 12,
    "gen_ai.usage.cache_creation_input_tokens": 3,
    "gen_ai.usage.reasoning_tokens": 5,
    "gen_ai.request.reasoning_effort": "low",
    "gen_ai.response.stop_reason": "end_turn",
    "gen_ai.openai.api_base": "https://api.example.org/v1/",
    "gen_ai.openai.system_fingerprint": "fp_44709d6fcb",
    "llm.top_k": 40.0,
}
OPENLIT = {
    "gen_ai.type": "embedding",
    "gen_ai.system": "vLLM",
    "gen_ai.endpoint": "openai.embeddings",
    "gen_ai.request.model": "bge-m3",
    "gen_ai.request.is_stream": False,
    "gen_ai.request.embedding_format": "float",
    "gen_ai.request.embedding_dimension": "1024",
    "gen_ai.usage.prompt_tokens": 42,
    "gen_ai.usage.total_tokens": 42,
    "gen_ai.usage.cost": 0.00002,
    "gen_ai.usage.prompt_tokens_details.cache_read": 12,
    "gen_ai.response.system_fingerprint": "fp_44709d6fcb",
    "gen_ai.application_name": "search",
}
OLDER = {
    "gen_ai.system": "az.ai.openai",
    "gen_ai.operation.name": "chat",
    "gen_ai.usage.prompt_tokens": 42,
    "gen_ai.usage.completion_tokens": 17,
    "gen_ai.usage.cache_creation.input_tokens": 3,
    "gen_ai.openai.request.response_format": "json_schema",
    "gen_ai.openai.request.seed": 7,
    "gen_ai.openai.request.service_tier": "auto",
    "gen_ai.openai.response.service_tier": "default",
    "gen_ai.openai.response.system_fingerprint": "fp_44709d6fcb",
    "gen_ai.workflow.name": "triage",
}

# What is sent, and what has to arrive: all of it, so that nothing else has changed.
DIALECTS: Mapping[str, tuple[Tree, Tree]] = {
    "OpenInference": (
        OPENINFERENCE,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "azure.ai.openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06",
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.max_tokens": 512,
            "gen_ai.request.seed": 7,
            "gen_ai.request.stop_sequences": ["###"],
            "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 42,
            "gen_ai.usage.output_tokens": 17,
            "gen_ai.usage.cache_read.input_tokens": 12,
            "gen_ai.usage.cache_write.input_tokens": 3,
            "gen_ai.usage.reasoning.output_tokens": 5,
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.conversation.id": "s-1",
            "gen_ai.agent.name": "planner",
            **{
                key: OPENINFERENCE[key]
                for key in (
                    *("llm.system", "llm.invocation_parameters", "llm.token_count.total", "session.id", "metadata"),
                    *("llm.token_count.prompt_details.cache_input", "llm.input_messages.0.message.role", "tag.tags"),
                )
            },
        },
    ),
    "OpenLLMetry 0.0": (
        OPENLLMETRY_OLD,
        {
            "gen_ai.provider.name": "openai",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-3.5-turbo",
            "gen_ai.response.model": "gpt-3.5-turbo-0125",
            "gen_ai.request.max_tokens": 256,
            "gen_ai.usage.input_tokens": 42,
            "gen_ai.usage.output_tokens": 17,
            "gen_ai.request.temperature": 0.2,
            "gen_ai.request.top_p": 1.0,
            "gen_ai.request.frequency_penalty": 0.5,
            "gen_ai.request.presence_penalty": 0.25,
            "gen_ai.request.stop_sequences": ["###"],
            "gen_ai.request.stream": True,
            "llm.usage.total_tokens": 59,
            "llm.headers": "None",
            "traceloop.workflow.name": "joke",
            "traceloop.association.properties.user": "u-1",
        },
    ),
    "OpenLLMetry 0.4": (
        OPENLLMETRY,
        {
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-sonnet-4",
            "gen_ai.operation.name": "text_completion",
            "gen_ai.usage.input_tokens": 42,
            "gen_ai.usage.output_tokens": 17,
            "gen_ai.usage.cache_read.input_tokens": 12,
            "gen_ai.usage.cache_write.input_tokens": 3,
            "gen_ai.usage.reasoning.output_tokens": 5,
            "gen_ai.request.reasoning.level": "low",
            "gen_ai.response.finish_reasons": ["end_turn"],
            "gen_ai.openai.api_base": "https://api.example.org/v1/",
            "openai.response.system_fingerprint": "fp_44709d6fcb",
            "gen_ai.request.top_k": 40,
        },
    ),
    "OpenLIT": (
        OPENLIT,
        {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "vllm",
            "gen_ai.endpoint": "openai.embeddings",
            "gen_ai.request.model": "bge-m3",
            "gen_ai.request.stream": False,
            "gen_ai.request.encoding_formats": ["float"],
            "gen_ai.embeddings.dimension.count": 1024,
            "gen_ai.usage.input_tokens": 42,
            "gen_ai.usage.total_tokens": 42,
            "gen_ai.usage.cost": 0.00002,
            "gen_ai.usage.cache_read.input_tokens": 12,
            "openai.response.system_fingerprint": "fp_44709d6fcb",
            "gen_ai.application_name": "search",
        },
    ),
    "older names": (
        OLDER,
        {
            "gen_ai.provider.name": "azure.ai.openai",
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": 42,
            "gen_ai.usage.output_tokens": 17,
            "gen_ai.usage.cache_write.input_tokens": 3,
            "gen_ai.output.type": "json",
            "gen_ai.request.seed": 7,
            "openai.request.service_tier": "auto",
            "openai.response.service_tier": "default",
            "openai.response.system_fingerprint": "fp_44709d6fcb",
            "gen_ai.agent.name": "triage",
        },
    ),
    "OpenInference, completions": (
        {"openinference.span.kind": "LLM", "llm.prompts.0.prompt.text": "Once", "llm.provider": "xai"},
        {
            "gen_ai.operation.name": "text_completion",
            "llm.prompts.0.prompt.text": "Once",
            "gen_ai.provider.name": "x_ai",
        },
    ),
    "OpenInference, a tool": (
        {
            "openinference.span.kind": "TOOL",
            "tool.name": "weather",
            "tool.description": "describes",
            "tool.id": "call_1",
        },
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "weather",
            "gen_ai.tool.description": "describes",
            "gen_ai.tool.call.id": "call_1",
        },
    ),
    "OpenInference, a reranker": (
        {"openinference.span.kind": "RERANKER", "reranker.model_name": "bge-reranker", "reranker.top_k": 3},
        {"gen_ai.operation.name": "rerank", "gen_ai.request.model": "bge-reranker", "reranker.top_k": 3},
    ),
    "OpenInference, vendors": (
        {"openinference.span.kind": "EMBEDDING", "llm.system": "vertexai", "embedding.model_name": "ge"},
        {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "gcp.vertex_ai",
            "gen_ai.request.model": "ge",
        },
    ),
    "OpenLLMetry, an agent": (
        {"traceloop.span.kind": "agent", "traceloop.entity.name": "planner", "traceloop.entity.path": "a.b"},
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner", "traceloop.entity.path": "a.b"},
    ),
    "OpenLLMetry, a tool": (
        {"traceloop.span.kind": "tool", "traceloop.entity.name": "weather"},
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "weather"},
    ),
}

UNTOUCHED: Mapping[str, Tree] = {
    "a kind that is no operation": {"openinference.span.kind": "CHAIN", "metadata": "{}", "tool.name": "of no tool"},
    "a task": {"traceloop.span.kind": "task", "traceloop.entity.name": "join"},
    "an unknown word": {"llm.request.type": "moderation", "gen_ai.openai.request.response_format": "xml"},
    "what cannot be converted": {"gen_ai.request.embedding_dimension": "null", "llm.is_streaming": "perhaps"},
    "names of other instrumentations": {"session.id": "s-1", "tool.name": "hammer", "agent.name": "Smith"},
    "no JSON": {"openinference.span.kind": "PROMPT", "llm.invocation_parameters": '{"temperature": 0.'},
    "current names": {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 42,
        "gen_ai.response.finish_reasons": ["stop"],
        "http.route": "/v1/chat/completions",
    },
}

PRESENT: Tree = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "vllm",
    "gen_ai.request.model": "mine",
    "gen_ai.usage.input_tokens": 1,
    "gen_ai.response.finish_reasons": ["length"],
}
"""Names that are already there, beside old ones that say something else."""

OVERRULED = {
    "gen_ai.system": "openai",
    "llm.request.type": "chat",
    "llm.request.model": "theirs",
    "gen_ai.usage.prompt_tokens": 2,
    "gen_ai.response.finish_reason": "stop",
}
