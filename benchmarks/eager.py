"""The ops as a user would write them in PyTorch: what ours compete with, and what torch.compile is given."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear


def marginalize(logits: Tensor, weights: Tensor) -> Tensor:
    """[rows, vocab] from logits [rows, branches, vocab] and log-weights [rows, branches]."""
    return (weights[..., None] + logits.float().log_softmax(-1)).logsumexp(-2)


def marginalize_topk(logits: Tensor, weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and tokens [rows, k]."""
    log_probs, tokens = marginalize(logits, weights).topk(k)
    return log_probs, tokens


def marginalize_targets(logits: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """[rows]: the log-probability of one token a row."""
    return marginalize(logits, weights).gather(-1, targets[:, None]).squeeze(-1)


def linear_marginalize(hidden: Tensor, unembedding: Tensor, weights: Tensor) -> Tensor:
    """[rows, vocab] from hidden [rows, branches, hidden] and unembedding [vocab, hidden]."""
    return marginalize(linear(hidden, unembedding), weights)


def joint_topk(logits: Tensor, weights: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, branches and tokens [rows, k]."""
    pairs = weights[..., None] + logits.float().log_softmax(-1)
    log_probs, flat = pairs.flatten(1).topk(k)
    return log_probs, flat // logits.shape[-1], flat % logits.shape[-1]


def select_branches(logits: Tensor, top_p: float, max_branches: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and log-probabilities [rows, max_branches], counts [rows]: softmax, sort, cumulative sum."""
    probs, tokens = logits.float().softmax(-1).sort(descending=True)
    kept = (probs.cumsum(-1) - probs < top_p)[:, :max_branches]
    log_probs = probs[:, :max_branches].log().masked_fill(~kept, float("-inf"))
    return tokens[:, :max_branches].masked_fill(~kept, -1), log_probs, kept.sum(-1)


def mix_layers(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """[heads, rows, hidden] from layers [rows, hidden] and weights [heads, layers]."""
    stacked = torch.stack(list(layers))
    return torch.einsum("hl,lrd->hrd", weights.to(stacked.dtype), stacked)
