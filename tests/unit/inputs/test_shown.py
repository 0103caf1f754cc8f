from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from ai_otel.inputs.shown import LIMIT, shown

SECRET = "s3cr3tABCdef0123456789xyz"
KEY = "sk-proj-0123456789"

SHAPES = {
    f"Authorization: Bearer {KEY}": "Authorization: Bearer ***",
    f"authorization=Bearer%20{SECRET}": "authorization=Bearer ***",
    f"Bearer {SECRET}": "Bearer ***",
    f"https://host:4318/v1/traces?api_key={SECRET}&x={SECRET}": "https://host:4318/v1/traces?api_key=***&x=***",
    f"https://host/#access_token={SECRET}": "https://host/#access_token=***",
    f"user:{SECRET}@host:4317": "***@host:4317",
    f"https://user:{SECRET}@host/path": "https://***@host/path",
    f"https://user:p@{SECRET}@host/path": "https://***@host/path",
    f"https://user:p/{SECRET}@host/path": "https://***@host/path",
    f"https://{SECRET}@host": "https://***@host",
    f"https://host/v1/{SECRET}/traces": "https://host/v1/***/traces",
    f"vllm serve MODEL --api-key {SECRET} --port 8000": "vllm serve MODEL --api-key *** --port 8000",
    f"--api-key={SECRET}": "--api-key=***",
    f"--hf-token {SECRET} --password {SECRET}": "--hf-token *** --password ***",
    f"DD-API-KEY={SECRET}": "DD-API-KEY=***",
    f"x-honeycomb-team={SECRET}": "x-honeycomb-team=***",
    f'{{"password": "{SECRET}"}}': '{"password": "***"}',
    "password: hunter2": "password: ***",
    KEY: "***",
    "hf_abcdefghijkl": "***",
    "ghp_abcdefghijkl0123": "***",
    "AKIAIOSFODNN7EXAMPLE": "***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "***",
    SECRET: "***",
    "0123456789abcdef0123456789abcdef": "***",
    "-----BEGIN PRIVATE KEY-----\nMIIE": "***",
}

PLAIN = (
    "http://collector.observability.svc:4318/v1/traces",
    "collector:4317",
    "http://[::1]:4318",
    "service.name=vllm,deployment.environment.name=prod",
    "GPU-4f3c2b1a-0000-1111-2222-333344445555",
    "models.vllm-0.server",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "parentbased_traceidratio",
    "ai_otel.usage.input_tokens, ai_otel.token.interval",
    "vllm.v1.engine.async_llm:AsyncLLM.generate",
    "Put the credentials into OTEL_EXPORTER_OTLP_HEADERS, as NAME=VALUE; a space is written %20.",
    "9" * 40,
)


@pytest.mark.parametrize("text", SHAPES)
def test_credentials_are_masked(text: str) -> None:
    assert shown(text) == SHAPES[text]


@pytest.mark.parametrize("text", PLAIN)
def test_other_values_are_shown_as_they_are(text: str) -> None:
    assert shown(text) == text


@given(st.text())
def test_every_text_is_one_short_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text, 20)) <= 200  # an escaped character takes up to ten


def test_control_characters_are_escaped() -> None:
    assert shown("\x1b[2J\x07a\nb\u202ec\ud800") == r"\x1b[2J\x07a\nb\u202ec\ud800"


def test_the_rest_of_a_long_value_is_an_ellipsis() -> None:
    assert shown("word " * 100) == ("word " * 40)[: LIMIT - 1] + "…"


@pytest.mark.parametrize("piece", ["a:", "--token ", "=?&", "@", "a-", "token", "\x1b", "://", "bearer "])
def test_hostile_values_take_no_time(piece: str) -> None:
    started = time.monotonic()
    shown(piece * 1_000_000)
    assert time.monotonic() - started < 2
