"""
A llama model with random weights, as a GGUF file: a real model for a real server, in well under a second.

What it says is a salad of common words; how long it takes, how many tokens it counts and how it ends are as real as any
model's. `python -m ai_otel.demo.gguf PATH` writes one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, TokenType

TEXT = """
the of and to in is that it for was on are as with they be at one have this from or had by hot but some what there we
can out other were all your when up use word how said an each she which do their time if will way about many then them
would write like so these her long make thing see him two has look more day could go come did my sound no most number
who over know water than call first people may down side been now find any new work part take get place made live where
after back little only round man year came show every good me give our under name very through just form much great
think say help low line before turn cause same mean differ move right boy old too does tell sentence set three want air
well also play small end put home read hand port large spell add even land here must big high such follow act why ask
men change went light kind off need house picture try us again animal point mother world near build self earth father
"""
WORDS = tuple(TEXT.split())
SPECIAL = ("<unk>", "<s>", "</s>")
UNKNOWN, BEGIN, END = range(3)
SPACE = "\u2581"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """How large the model is. The default takes about a millisecond a token on one core."""

    width: int = 256
    inner: int = 1024
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    context: int = 4096

    @property
    def head_width(self) -> int:
        """Numbers per attention head."""
        return self.width // self.heads


TINY = Shape(width=64, inner=128, layers=2, heads=4, kv_heads=2, context=512)
"""Half a megabyte, for tests: a token in a tenth of a millisecond."""


def vocabulary() -> tuple[list[str], list[int]]:
    """
    All tokens and their kinds: special ones, single bytes, and whole words.

    Every beginning of a word is a token too: through these a SentencePiece tokenizer gets to the word.
    """
    beginnings = {SPACE + word[:end]: None for word in WORDS for end in range(len(word) + 1)}
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyz")
    pieces = [*beginnings, *letters]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    return tokens, [int(kind) for kind in kinds]


def write_model(path: Path, shape: Shape = Shape(), seed: int = 0) -> Path:
    """Write the model; the same file for the same shape and seed."""
    tokens, kinds = vocabulary()
    writer = GGUFWriter(str(path), "llama")
    _add_shape(writer, shape, len(tokens))
    _add_tokenizer(writer, tokens, kinds)
    _add_weights(writer, shape, tokens, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: Any, shape: Shape, words: int) -> None:
    writer.add_name("random words")
    writer.add_file_type(0)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(words)


def _add_tokenizer(writer: Any, tokens: list[str], kinds: list[int]) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Longer pieces are better ones, so that a text becomes as few tokens as it can.
    lengths = [len(token) if kind == TokenType.NORMAL else 0 for token, kind in zip(tokens, kinds, strict=True)]
    writer.add_token_scores([float(length) for length in lengths])
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_weights(writer: Any, shape: Shape, tokens: list[str], random: Any) -> None:
    def matrix(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    ones = np.ones(shape.width, np.float32)
    kv_width = shape.kv_heads * shape.head_width
    embedding, output = matrix(len(tokens), shape.width), matrix(len(tokens), shape.width)
    # The first number is the same for every token and stays so through all layers: by it, words are likelier than
    # single bytes and special tokens, and so the answer is readable and seldom ends by itself.
    embedding[:, 0] = 4.0
    output[:, 0] = [0.0 if token[1:] in WORDS else -2.0 for token in tokens]
    writer.add_tensor("token_embd.weight", embedding)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        writer.add_tensor(f"{block}.attn_q.weight", matrix(shape.width, shape.width))
        writer.add_tensor(f"{block}.attn_k.weight", matrix(kv_width, shape.width))
        writer.add_tensor(f"{block}.attn_v.weight", matrix(kv_width, shape.width))
        writer.add_tensor(f"{block}.attn_output.weight", matrix(shape.width, shape.width))
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(shape.inner, shape.width))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(shape.inner, shape.width))
        writer.add_tensor(f"{block}.ffn_down.weight", matrix(shape.width, shape.inner))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
