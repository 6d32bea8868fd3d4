"""A next-token distribution after temperature, top-k, top-p and min-p."""

import math

import torch
from torch import Tensor


def truncated_softmax(
    logits: Tensor, temperature: float, top_k: float | None, top_p: float | None, min_p: float | None
) -> Tensor | None:
    """float64 [vocab] from the logits [vocab] of one row; None where they hold NaN or +inf or nothing but -inf.

    First the temperature; then top_k; then top_p over what is left, renormalized, where the token that crosses it is
    kept; then min_p, a share of the largest probability. Ties go to the lower token.
    """
    logits, tokens = logits.double().sort(descending=True, stable=True)
    if logits.shape[0] == 0 or not logits[0].isfinite():
        return None
    scores = (logits - logits[0]) / temperature
    kept = torch.arange(logits.shape[0], device=logits.device) < (top_k or logits.shape[0])
    probs = scores.masked_fill(~kept, -math.inf).softmax(-1)
    if top_p is not None and top_p < 1.0:
        kept &= probs.cumsum(-1) - probs < top_p
    if min_p is not None and min_p > 0.0:
        kept &= scores >= math.log(min_p)
    probs = scores.masked_fill(~kept, -math.inf).softmax(-1)
    return torch.zeros_like(probs).index_copy(0, tokens, probs)
