"""A model server of one's own: FastAPI in front of a model that ai-otel knows nothing of. Here it repeats words."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

MODEL = "parrot-1"
WORDS = ["a", "model", "of", "your", "own", "says", "what", "you", "say"]

app = FastAPI()


def generate(prompt: str, limit: int) -> Iterator[str]:
    """The model: a token for each word, 20 ms apart."""
    for word in (prompt.split() or WORDS)[:limit]:
        time.sleep(0.02)
        yield word


def answer(**members: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": MODEL, **members}


@app.get("/health")
async def health() -> str:
    return "ok"


@app.post("/v1/chat/completions", response_model=None)
async def chat(body: dict[str, Any]) -> dict[str, Any] | StreamingResponse:
    prompt = str(body.get("messages", [{}])[-1].get("content", ""))
    limit = int(body.get("max_tokens", 32))
    if limit < 1:
        raise HTTPException(400, "max_tokens must be positive")
    if body.get("stream"):
        return StreamingResponse(events(prompt, limit), media_type="text/event-stream")
    words = await asyncio.to_thread(lambda: list(generate(prompt, limit)))
    choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": "stop"}
    return answer(choices=[choice], usage=usage(prompt, len(words)))


async def events(prompt: str, limit: int) -> AsyncIterator[str]:
    words, count = generate(prompt, limit), 0
    while (word := await asyncio.to_thread(next, words, None)) is not None:
        count += 1
        yield event(answer(choices=[{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]))
    yield event(answer(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    yield event(answer(choices=[], usage=usage(prompt, count)))
    yield "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def usage(prompt: str, output: int) -> dict[str, int]:
    return {"prompt_tokens": len(prompt.split()), "completion_tokens": output}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
