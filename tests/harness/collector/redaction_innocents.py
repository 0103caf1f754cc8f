"""Values that are no secrets, as model servers and their clusters write them; drawn, always the same ones."""

from __future__ import annotations

import json
import random
import string
import uuid
from collections.abc import Callable, Iterator, Mapping

LETTERS, LOWER, HEX = string.ascii_letters + string.digits, string.ascii_lowercase + string.digits, "0123456789abcdef"
NAMES = (
    *(
        "model",
        "tensor",
        "layer",
        "cache",
        "batch",
        "request",
        "queue",
        "engine",
        "worker",
        "shard",
        "rank",
        "tokenizer",
    ),
    *("prompts", "answer", "keys", "code", "stream", "block", "page", "slot", "memory", "device", "kernel", "graph"),
    *("session", "account", "author", "basic"),
)
# In sentences, where nothing is assigned to them.
SPOKEN = (
    *(*NAMES, "the", "of", "and", "token", "prompt", "key", "secret", "pass", "card", "cookie", "bearer", "license"),
    *("password", "credentials", "authorization"),
)
ORGANISATIONS = ("meta-llama", "Qwen", "mistralai", "google", "deepseek-ai", "BAAI", "microsoft", "acme")
FAMILIES = ("Llama-3", "Qwen2.5", "Mixtral-8x7B", "gemma-2", "DeepSeek-R1", "bge-m3", "Phi-4", "gpt-oss")
KINDS = ("Instruct", "Base", "AWQ", "FP8", "GPTQ-Int4", "Chat", "it", "Distill")


def innocents(seed: int, each: int) -> Iterator[tuple[str, str]]:
    """Kinds and values, so many of each kind."""
    draw = random.Random(seed)
    for kind, value in _kinds(draw).items():
        for _ in range(each):
            yield kind, value()


def _kinds(draw: random.Random) -> Mapping[str, Callable[[], str]]:
    def some(letters: str, count: int) -> str:
        return "".join(draw.choices(letters, k=count))

    def number(most: int) -> int:
        return draw.randrange(most)

    def word() -> str:
        return draw.choice(NAMES)

    def identity() -> str:
        return str(uuid.UUID(int=draw.getrandbits(128), version=4))

    def model() -> str:
        return f"{draw.choice(ORGANISATIONS)}/{draw.choice(FAMILIES)}-{number(400) + 1}B-{draw.choice(KINDS)}"

    def time() -> str:
        date = f"20{20 + number(10)}-{number(12) + 1:02}-{number(28) + 1:02}"
        return f"{date}T{number(24):02}:{number(60):02}:{number(60):02}.{number(10**6):06}Z"

    def address() -> str:
        return ".".join(str(number(256)) for _ in range(4))

    def pod() -> str:
        return f"{word()}-{word()}-{some(HEX, 10)}-{some(LOWER, 5)}"

    def version() -> str:
        return ".".join(str(number(most)) for most in (600, 200, 10_000, 300))

    return {
        "UUID": identity,
        "UUID in capitals": lambda: identity().upper(),
        "trace id": lambda: some(HEX, 32),
        "object id": lambda: some(HEX, 24),
        "span id": lambda: some(HEX, 16),
        "commit": lambda: some(HEX, 40),
        "digest": lambda: f"sha256:{some(HEX, 64)}",
        "response id": lambda: f"chatcmpl-{some(LETTERS, 29)}",
        "random text": lambda: some(LETTERS, 40),
        "base64": lambda: some(LETTERS + "+/", 43) + "=",
        "fraction": lambda: repr(draw.random()),
        "fractions": lambda: json.dumps([draw.uniform(-10, 10) for _ in range(6)]),
        "nanoseconds": lambda: str(1_700_000_000_000_000_000 + number(3 * 10**17)),
        "microseconds": lambda: str(1_700_000_000_000_000 + number(3 * 10**14)),
        "milliseconds": lambda: str(1_700_000_000_000 + number(3 * 10**11)),
        "number": lambda: str(number(10 ** (number(12) + 1))),
        "token ids": lambda: str([number(128_000) for _ in range(9)]),
        "sizes": lambda: " ".join(f"{number(10**5)}kB" for _ in range(5)),
        "shape": lambda: f"[{number(64) + 1}, {2 ** number(14)}, {2 ** number(14)}]",
        "time": time,
        "address": lambda: f"{address()}:{number(65536)}",
        "IPv6 address": lambda: ":".join(some(HEX, 4) for _ in range(8)),
        "version": version,
        "package": lambda: f"{word()}-{word()}=={number(9)}.{number(30)}.{number(9)}.post{number(9)}+cu{number(130)}",
        "image": lambda: f"ghcr.io/acme/{word()}:v{version()}@sha256:{some(HEX, 64)}",
        "pod": pod,
        "GPU": lambda: f"GPU-{identity()}",
        "model": model,
        "path": lambda: f"/models/models--{model().replace('/', '--')}/snapshots/{some(HEX, 40)}/{word()}.safetensors",
        "URL": lambda: f"http://{pod()}:{number(65536)}/v1/{word()}?page={number(99)}&{word()}_id={number(9999)}",
        "user agent": lambda: f"{word().title()}/{version()} (Linux; x86_64) Python/3.{number(14)}",
        "sentence": lambda: " ".join(draw.choices(SPOKEN, k=12)) + f" {number(100)}, {word()} ({number(9)}).",
        "log line": lambda: (
            f"INFO {time()} [{word()}.py:{number(900)}] {word()} {word()}={number(999)}, {word()}: {some(HEX, 12)}"
        ),
        "trace back": lambda: (
            f'File "/app/{word()}.py", line {number(999)}, in {word()}_{word()}\n{word().title()}Error: {word()}'
        ),
        "JSON": lambda: json.dumps(
            {f"{word()}_count": number(9999), word() + "_id": identity(), "model": model(), "ok": True}
        ),
        "JSON of counts": lambda: json.dumps(
            {"token_count": number(9999), "max_tokens": number(9999), "key_size": number(99)}
        ),
        "repr": lambda: (
            f"SamplingParams(n={number(9)}, temperature={draw.random()}, max_tokens={number(9999)}, stop=[])"
        ),
        "command": lambda: (
            f"vllm serve {model()} --port {number(65536)} --max-model-len {number(99999)} --tokenizer {model()}"
        ),
        "metric": lambda: f'vllm:{word()}_{word()}_total{{model="{model()}",engine="{number(9)}"}} {draw.random()}',
        "SQL": lambda: (
            f"SELECT {word()}, {word()} FROM {word()}s WHERE {word()}_id = {number(9999)} AND n > {number(99)}"
        ),
    }
