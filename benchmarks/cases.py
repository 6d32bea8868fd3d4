"""What every benchmark runs over: shapes of real workloads, dtypes and thread counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import pytest
import torch

# rows x branches x vocabulary. 270 and 850 are the mean branches of a 0.99 nucleus under Llama-3 8B and
# Pythia 410M (arXiv 2502.09419, figure 4); the vocabularies are those of SmolLM2, Pythia and Llama 3.
BRANCH_SHAPES = (
    (1, 8, 49152),
    (1, 8, 128256),
    (4, 16, 128256),
    (1, 64, 49152),
    (1, 270, 128256),
    (1, 850, 50304),
)
# rows x vocabulary
LOGIT_SHAPES = ((64, 49152), (64, 128256))
# batch x prefix x nodes x heads x KV heads x head_dim: heads as in SmolLM2-360M (half), Llama 3 8B and SmolLM2-135M.
TREE_SHAPES = (
    (1, 512, 16, 8, 2, 64),
    (1, 2048, 64, 32, 8, 128),
    (4, 1024, 16, 32, 8, 128),
    (1, 8192, 64, 32, 8, 128),
    (1, 4096, 1, 32, 8, 128),
    (1, 4096, 4, 32, 8, 128),
    (1, 4096, 8, 32, 8, 128),
)
SIBLING_SHAPES = ((1, 200, 850, 9, 3, 64),)
NODES_GROW = tuple((1, 2048, nodes, 32, 8, 128) for nodes in (1, 2, 4, 8, 16, 32, 64))
PREFIX_GROWS = tuple((1, prefix, 16, 32, 8, 128) for prefix in (512, 1024, 2048, 4096, 8192))
# batch x nodes x vocabulary
VERIFY_SHAPES = ((1, 64, 49152), (8, 64, 49152), (4, 32, 128256))
# layers x batch x prefix x accepted nodes x kv_heads x head_dim: SmolLM2, and an 8B Llama
COMMIT_SHAPES = ((30, 1, 512, 8, 3, 64), (30, 1, 512, 32, 3, 64), (30, 8, 512, 8, 3, 64), (32, 4, 512, 8, 8, 128))
# rows x inputs x outputs: a layer of SmolLM2 (135M) for one token, two matrices of its MLP and its head for trees, and
# a matrix of an MLP of Llama 2 (7B). The dtype is what the weights are stored in.
LINEAR_SHAPES = (
    (1, 576, 576),
    (1, 576, 1536),
    (4, 576, 1536),
    (16, 1536, 576),
    (1, 576, 49152),
    (4, 576, 49152),
    (16, 576, 49152),
    (1, 4096, 11008),
    (8, 4096, 11008),
)
# branches x hidden x vocabulary: SmolLM2 (135M) twice, Llama 3 8B, Pythia 410M and a Gemma of 262,144 tokens
HIDDEN_SHAPES = ((8, 576, 49152), (64, 576, 49152), (64, 640, 262144), (850, 1024, 50304), (270, 4096, 128256))
HEAD_SHAPES = ((1, 576, 49152), (16, 576, 49152))
# heads x layers x rows x hidden: SmolLM2-135M over a training batch of 4 x 256 tokens
MIX_SHAPES = ((1, 29, 1024, 576), (4, 29, 1024, 576))
DTYPES = ("float32", "bfloat16")
THREADS = (1, 2)


@dataclass(frozen=True)
class Case:
    """One input: its shape, the name of its dtype, and how many threads may work on it."""

    shape: tuple[int, ...]
    dtype: str
    threads: int

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-{self.dtype}-{self.threads}"


def cases(shapes: Iterable[tuple[int, ...]], threads: tuple[int, ...] = THREADS) -> list[Case]:
    """All cases of these shapes, the smallest first."""
    return [Case(*each) for each in product(shapes, DTYPES, threads)]


def over(shapes: Iterable[tuple[int, ...]], threads: tuple[int, ...] = THREADS) -> pytest.MarkDecorator:
    """Runs a benchmark on all cases of these shapes."""
    return pytest.mark.parametrize("case", cases(shapes, threads), ids=str)
