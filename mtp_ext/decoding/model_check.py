"""Whether a target says what its model says: a short prompt and a small tree through both.

How far two correct passes may lie apart is measured on the model itself, with every product's inputs moved by what
rounding makes of them: by one rounding to the model's dtype, and by sqrt(n) roundings of float32 for a sum of n
products (the probabilistic bound of Higham and Mary, SIAM J. Sci. Comput. 41, 2019). Each of the two passes may be off
by as much, so the budget is twice what that moves the logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtp_ext.decoding.target import Target
from mtp_ext.tree import TokenTree

_PROMPT = 12  # tokens
_PARENTS = (-1, 0, 0, 1, 2)  # a tree of two paths
_PATHS = ((0, 1, 3), (0, 2, 4))


class Expected(NamedTuple):
    """What a model itself says of `prompt`, int64 [1, tokens], and behind it of `tree`.

    Attributes:
        logits: float32 [1 + nodes, vocab], of the prompt's last token and of each node.
        budget: how far those of another correct pass may be from them.
    """

    prompt: Tensor
    tree: TokenTree
    logits: Tensor
    budget: float


@torch.no_grad()
def ask(model: PreTrainedModel) -> Expected:
    """Runs the model as it was given, without a cache, each path of the tree as a sequence of its own."""
    vocab = model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(vocab, (_PROMPT + len(_PARENTS),), generator=torch.Generator().manual_seed(0))
    prompt, nodes = tokens.to(model.device).split((_PROMPT, len(_PARENTS)))
    sequences = torch.stack([torch.cat([prompt, nodes[list(path)]]) for path in _PATHS])

    def logits() -> Tensor:
        passed: Tensor = model(sequences, use_cache=False, logits_to_keep=len(_PATHS[0]) + 1).logits
        places = {node: (row, place) for row, path in enumerate(_PATHS) for place, node in enumerate(path, 1)}
        rows, columns = zip((0, 0), *(places[node] for node in range(len(_PARENTS))), strict=True)
        return passed[list(rows), list(columns)].float()

    given = logits()
    with _rounded_once_more(model):
        moved = logits()
    parents = torch.tensor([_PARENTS], device=model.device)
    budget = 2.0 * (moved - given).abs().max().item()
    return Expected(prompt[None], TokenTree(nodes[None], parents), given, budget)


def distance(target: Target, expected: Expected) -> float:
    """The largest difference of the target's logits from those expected; NaN where there is one."""
    cache = target.new_cache(1, expected.prompt.shape[1] + expected.tree.tokens.shape[1])
    last = target.prefill(expected.prompt, cache).logits()[0]
    nodes = target.run_tree(expected.tree, cache).logits()[0]
    return (torch.cat([last, nodes]) - expected.logits).abs().max().item()


@contextmanager
def _rounded_once_more(model: nn.Module) -> Iterator[None]:
    """While each product of the model reads inputs that are moved by about what rounding makes of them."""
    generator = torch.Generator().manual_seed(0)

    def move(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return inputs
        unit = torch.finfo(x.dtype).eps / 2 + x.shape[-1] ** 0.5 * torch.finfo(torch.float32).eps / 2
        sign = torch.randint(2, x.shape, generator=generator).to(x.device) * 2 - 1
        return ((x.float() * (1 + unit * sign)).to(x.dtype), *rest)

    products = [m for m in model.modules() if getattr(getattr(m, "weight", None), "dim", int)() == 2]
    handles = [module.register_forward_pre_hook(move) for module in products]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
