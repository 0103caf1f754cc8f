"""
A Llama with random weights and a tokenizer of its own, as Hugging Face's files: a model for vLLM, from nothing.

What it says is noise; how long it takes, how many tokens it counts and how it ends are as real as any model's. Runs
inside an engine's environment, where torch, transformers and tokenizers are, and needs nothing else:

    python tiny_llama.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SPECIAL = ("<s>", "</s>", "<pad>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# Enough plain text that common words become one or two tokens: prompts in tests then have believable lengths.
TRAINING_TEXT = """
The server takes a request from the queue, reads the prompt and fills the cache with its keys and values. Then it
writes one
token after another until the answer is complete, the client hangs up, or the limit is reached. A request that waits
is not a
request that fails, but a person who waits for the first word cannot tell the two apart.
What is the capital of France? Tell me a story about a small robot who learns to count. Write a short poem about the
sea.
Explain in one sentence how a bicycle stays upright. Translate the following text into German. Summarise this
article, please.
You are a helpful assistant. Answer with yes or no. List three reasons, in order of importance, and give one example
for each.
Once upon a time there was a lighthouse keeper who wrote down every ship that passed: its name, its course, the
hour, the wind.
After many years the book was full, and when the fog came nobody had to ask which ship was late. The keeper could
tell them.
import time; def measure(work): start = time.monotonic(); work(); return time.monotonic() - start
{"model": "tiny", "messages": [{"role": "user", "content": "Hello, how are you today?"}], "max_tokens": 16,
"stream": true}
user: hello world assistant: Hello! How can I help you today? system: be brief and be kind. tool: the weather is
sunny, 21 degrees.
0 1 2 3 4 5 6 7 8 9 10 11 12 16 24 32 48 64 100 128 256 512 1000 1024 2026
"""


def make_tokenizer() -> Any:
    """A byte-level tokenizer: it can spell anything, so no prompt can break it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT.splitlines() * 4, trainer)
    begin, end, pad = SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=pad)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: Any) -> Any:
    """Two layers: enough to be a transformer, too few to cost anything."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).bfloat16()


def main(directory: Path) -> None:
    """Write the same model every time."""
    from transformers import set_seed

    set_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(directory)
    make_model(tokenizer).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
