"""Stands for llama-cpp-python, which builds for minutes. `test_fake.py` holds it against the real sources."""

from .llama import Llama, llama_vocab_is_eog

__version__ = "0.3.36"
__all__ = ["Llama", "llama_vocab_is_eog"]
