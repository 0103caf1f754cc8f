"""The shape of `llama_cpp.Llama`: who calls whom, what comes back whole and what as a stream."""
# ruff: noqa: ANN201, ANN204 - the engine's signatures, without its types

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

END = 2


def llama_vocab_is_eog(vocab: Any, token: int) -> bool:
    assert vocab == "vocab"
    return token == END


class Llama:
    """Answers with the tokens of `script`; what comes after the end of generation is never reached."""

    def __init__(self, model_path: str, *, script: Sequence[int] = range(100, 200), n_ctx: int = 64) -> None:
        self.model_path = model_path
        self.script = script
        self.chat_handler: Callable[..., Any] | None = None
        self._model = SimpleNamespace(vocab="vocab")
        self._n_ctx = n_ctx

    def generate(
        self,
        tokens,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        typical_p=1.0,
        temp=0.80,
        repeat_penalty=1.0,
        reset=True,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        tfs_z=1.0,
        mirostat_mode=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        penalize_nl=True,
        logits_processor=None,
        stopping_criteria=None,
        grammar=None,
    ):
        yield from self.script

    def create_embedding(self, input, model=None):  # noqa: A002 - the engine's name
        texts = input if isinstance(input, list) else [input]
        vectors, total = self.embed(texts, return_count=True)
        return {
            "object": "list",
            "data": [{"embedding": vector, "index": index} for index, vector in enumerate(vectors)],
            "model": model or self.model_path,
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }

    def embed(self, input, normalize=False, truncate=True, return_count=False):  # noqa: A002 - the same
        texts = [input] if isinstance(input, str) else input
        vectors = [[0.5] * 8 for _ in texts]
        output = vectors[0] if isinstance(input, str) else vectors
        return (output, sum(len(text.split()) for text in texts)) if return_count else output

    def _create_completion(
        self, prompt: Any, max_tokens: int | None, stop: Any, model: Any, stream: bool
    ) -> Iterator[dict[str, Any]]:
        prompt_tokens = [1, *(prompt if isinstance(prompt, list) else map(len, prompt.split()))]
        if len(prompt_tokens) >= self._n_ctx:
            raise ValueError(f"Requested tokens ({len(prompt_tokens)}) exceed context window of {self._n_ctx}")
        completion: list[int] = []
        reason = "length"
        answer = {"id": f"cmpl-{id(completion)}", "object": "text_completion", "model": model or self.model_path}
        for token in self.generate(prompt_tokens):
            if llama_vocab_is_eog(self._model.vocab, token):
                reason = "stop"
                break
            completion.append(token)
            if stop and str(token) in stop:
                reason = "stop"
                break
            if stream:
                yield {**answer, "choices": [{"text": f" {token}", "index": 0, "finish_reason": None}]}
            if max_tokens is not None and len(completion) >= max_tokens:
                break
        if stream:
            yield {**answer, "choices": [{"text": "", "index": 0, "finish_reason": reason}]}
            return
        text = "".join(f" {token}" for token in completion)
        usage = {
            "prompt_tokens": len(prompt_tokens),
            "completion_tokens": len(completion),
            "total_tokens": len(prompt_tokens) + len(completion),
        }
        yield {**answer, "choices": [{"text": text, "index": 0, "finish_reason": reason}], "usage": usage}

    def create_completion(
        self,
        prompt,
        suffix=None,
        max_tokens=16,
        temperature=0.8,
        top_p=0.95,
        min_p=0.05,
        typical_p=1.0,
        logprobs=None,
        echo=False,
        stop=[],  # noqa: B006 - the engine's default
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repeat_penalty=1.0,
        top_k=40,
        stream=False,
        seed=None,
        tfs_z=1.0,
        mirostat_mode=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        model=None,
        stopping_criteria=None,
        logits_processor=None,
        grammar=None,
        logit_bias=None,
    ):
        completion_or_chunks = self._create_completion(prompt, max_tokens, stop, model, stream)
        return completion_or_chunks if stream else next(completion_or_chunks)

    def __call__(
        self,
        prompt,
        suffix=None,
        max_tokens=16,
        temperature=0.8,
        top_p=0.95,
        min_p=0.05,
        typical_p=1.0,
        logprobs=None,
        echo=False,
        stop=[],  # noqa: B006 - the engine's default
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repeat_penalty=1.0,
        top_k=40,
        stream=False,
        seed=None,
        tfs_z=1.0,
        mirostat_mode=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        model=None,
        stopping_criteria=None,
        logits_processor=None,
        grammar=None,
        logit_bias=None,
    ):
        return self.create_completion(prompt=prompt, max_tokens=max_tokens, stop=stop, stream=stream, model=model)

    def create_chat_completion(
        self,
        messages,
        functions=None,
        function_call=None,
        tools=None,
        tool_choice=None,
        temperature=0.2,
        top_p=0.95,
        top_k=40,
        min_p=0.05,
        typical_p=1.0,
        stream=False,
        stop=[],  # noqa: B006 - the engine's default
        seed=None,
        response_format=None,
        max_tokens=None,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repeat_penalty=1.0,
        tfs_z=1.0,
        mirostat_mode=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        model=None,
        logits_processor=None,
        grammar=None,
        logit_bias=None,
        logprobs=None,
        top_logprobs=None,
    ):
        handler = self.chat_handler or _eager_format
        return handler(llama=self, messages=messages, max_tokens=max_tokens, stop=stop, stream=stream)


def _eager_format(*, llama: Llama, messages: Any, **asked: Any) -> Any:
    """As most chat formats do it: one completion, begun at once, and converted piece by piece."""
    answer = llama.create_completion(prompt=" ".join(each["content"] for each in messages), **asked)
    return (_chat(piece) for piece in answer) if asked["stream"] else _chat(answer)


def lazy_format(*, llama: Llama, messages: Any, **asked: Any) -> Any:
    """As the formats for function calls do it: several completions, begun while the caller reads the stream."""

    def stream() -> Iterator[dict[str, Any]]:
        prompt = " ".join(each["content"] for each in messages)
        llama.create_completion(prompt=prompt, max_tokens=1)
        yield from (_chat(piece) for piece in llama.create_completion(prompt=prompt, **asked))

    return stream()


def _chat(piece: dict[str, Any]) -> dict[str, Any]:
    return {**piece, "object": "chat.completion", "id": "chat" + piece["id"]}
