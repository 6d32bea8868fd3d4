"""Whether a token is among the most probable ones, by one rule for all that predicts."""

from torch import Tensor

from mtp_ext.marginalize import marginalize_topk

TOP = 5


def most_probable(scores: Tensor) -> Tensor:
    """The five best tokens int64 [rows, 5] by logits or log-probabilities [rows, vocab], ties to the lower token."""
    certain = scores.new_zeros(scores.shape[0], 1).float()
    return marginalize_topk(scores[:, None], certain, k=TOP).tokens
