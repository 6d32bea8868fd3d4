"""A sample of the vocabulary for one step, with weights by which the sum of exponentials stays unbiased.

    sum over v of exp(z[v])  ~  sum over kept c of exp(z[c]) + (others / sampled) sum over sampled s of exp(z[s])

Kept are the targets of the step and the most frequent tokens of the text, which have almost all of the probability;
the rest of the vocabulary is sampled evenly. An eighth of the columns makes a step five times as fast.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtp_ext.heads.training.data import Block


class Columns(NamedTuple):
    """Of the unembedding.

    Attributes:
        tokens: int64 [columns], which ones.
        offsets: float32 [columns], what is added to their logits, nats.
        places: int64 [vocab], where a token's column is; -1 for those that have none.
    """

    tokens: Tensor
    offsets: Tensor
    places: Tensor


def frequent_tokens(blocks: Sequence[Block], vocab: int, count: int) -> Tensor:
    """int64, ascending: the most frequent tokens of a text, at most so many, those alone that occur."""
    counts = torch.bincount(torch.cat([block.tokens for block in blocks]), minlength=vocab)
    order = counts.argsort(descending=True, stable=True)[:count]
    return order[counts[order] > 0].sort().values


class ColumnSampler:
    """Chooses the columns of each step.

    Args:
        blocks: the text; tokens that are frequent in it are always kept.
        vocab: of the model.
        count: columns of a step; half of them at most are kept for being frequent.
    """

    def __init__(self, blocks: Sequence[Block], vocab: int, count: int) -> None:
        self._frequent = frequent_tokens(blocks, vocab, count // 2)
        self._vocab, self._count = vocab, count

    def __call__(self, targets: Tensor, seed: int) -> Columns:
        """The columns of a step whose targets these are, int64 [...]; the same for the same seed."""
        is_kept = torch.zeros(self._vocab, dtype=torch.bool)
        is_kept[self._frequent] = True
        is_kept[targets.flatten().cpu()] = True
        kept, others = is_kept.nonzero()[:, 0], (~is_kept).nonzero()[:, 0]
        count = min(len(others), max(1, self._count - len(kept)))
        random = torch.Generator().manual_seed(seed)
        sampled = others[torch.randperm(len(others), generator=random)[:count]]
        tokens = torch.cat([kept, sampled])
        offsets = torch.zeros(len(tokens))
        if count:
            offsets[len(kept) :] = math.log(len(others) / count)
        places = torch.full((self._vocab,), -1)
        places[tokens] = torch.arange(len(tokens))
        return Columns(*(part.to(targets.device) for part in (tokens, offsets, places)))
