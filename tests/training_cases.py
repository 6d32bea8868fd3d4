"""A tiny model, random text and short runs, for tests of training."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import Block
from mtp_ext.heads.training.loop import Training
from mtp_ext.heads.training.processes import Processes
from mtp_ext.heads.training.recipes import add_adapters
from mtp_ext.heads.training.settings import Settings
from mtp_ext.heads.training.states import LiveStates

VOCAB = 61


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """Three layers, in evaluation mode, frozen."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.3,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def random_blocks(count: int, seed: int = 0, longest: int = 24) -> list[Block]:
    """Blocks of different lengths; every third one has a prompt of four tokens."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, longest + 1, (count,), generator=random).tolist()
    return [
        Block(torch.randint(VOCAB, (length,), generator=random), 4 if i % 3 == 0 else 1)
        for i, length in enumerate(lengths)
    ]


def tiny_training(settings: Settings, blocks: list[Block]) -> Training:
    """A run that has not begun, on a model of its own."""
    model = tiny_model()
    heads = MTPHeads.from_model(
        model,
        settings.horizons,
        kind=settings.kind,
        hidden_states=settings.hidden_states,
        width=settings.width,
        seed=settings.seed,
    )
    if settings.strategy.joint:
        torch.manual_seed(settings.seed)
        model = add_adapters(model)
    return Training(settings, model, heads, blocks, LiveStates(heads, model), Processes(torch.device("cpu")))


def run_to(training: Training, step: int) -> None:
    """Runs until so many steps are done."""
    while training.step < step:
        for _ in training.run():
            if training.step == step:
                return


def learned(training: Training) -> dict[str, torch.Tensor]:
    """Copies of what learns, by name."""
    return {name: parameter.detach().clone() for name, parameter in training.parameters.items()}


def write_words(path: Path, words: int) -> Path:
    """A text file of so many words."""
    path.write_text(" ".join(f"word{i % 7}" for i in range(words)), encoding="utf-8")
    return path
