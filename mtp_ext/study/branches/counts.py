"""How many of a model's next tokens add up to each top-p, as `select_branches` counts them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext.branches import select_branches
from mtp_ext.study.hidden_states import TextStates

_CHUNK_BYTES = 16 << 20  # of float32 logits


@torch.no_grad()
def nucleus_counts(states: TextStates, top_ps: Sequence[float]) -> Tensor:
    """int64 [top-p, positions], for ascending `top_ps`; logits exist for a chunk of positions at a time."""
    vocab = states.head.unembedding.shape[0]
    positions = states.last_hidden.split(max(1, _CHUNK_BYTES // (4 * vocab)))
    counts = [_count(states.head.logits(hidden), top_ps, vocab) for hidden in positions]
    return torch.cat(counts, -1)


def _count(logits: Tensor, top_ps: Sequence[float], vocab: int) -> Tensor:
    return torch.stack([select_branches(logits, top_p=p, max_branches=vocab).counts for p in top_ps])
