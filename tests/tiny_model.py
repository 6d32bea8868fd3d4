"""Language models too small to know anything, for tests: random weights, and a tokenizer with a token a byte."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = 256
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny_llama(max_positions: int = 128) -> LlamaForCausalLM:
    """The same weights each time, large enough for peaked predictions."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, max_position_embeddings=max_positions, initializer_range=0.3)
    return LlamaForCausalLM(config).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def save_tiny_model(folder: Path, max_positions: int = 128) -> Path:
    """A Hugging Face folder with both."""
    tiny_llama(max_positions).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
