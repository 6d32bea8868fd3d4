"""Choice of the intermediate tokens to sum over: the top-p nucleus of a distribution."""

import torch
from torch import Tensor

from mtp_ext.reference.numbers import compute, top_descending


def select_branches(
    logits: Tensor,
    top_p: float = 0.99,
    top_k: int | None = None,
    temperature: float = 1.0,
    max_branches: int = 1024,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tokens and log_probs [rows, width], counts and dropped_mass [rows]; width is top_k or max_branches."""
    logits = compute(logits)
    largest, _ = logits.topk(min(1, logits.shape[-1]))  # [rows, 1]; none where the vocabulary is empty
    scores = ((logits - largest) / temperature).log_softmax(-1)  # divided first, large logits would be rounded
    broken = ~scores.isfinite().any(-1, keepdim=True)
    log_probs, tokens = top_descending(scores, max_branches if top_k is None else top_k)
    before = log_probs.exp().cumsum(-1) - log_probs.exp()  # the mass of the more probable tokens
    kept = (tokens >= 0) & ((before < top_p) | (top_p >= 1.0))
    dropped_mass = (1.0 - log_probs.exp().where(kept, 0.0).sum(-1)).clamp(min=0.0)
    log_probs = log_probs.masked_fill(~kept, float("-inf"))
    tokens = tokens.masked_fill(~kept, -1)
    counts = kept.sum(-1)
    # A broken row is one branch that says so: token -1, log-probability NaN.
    first = torch.arange(log_probs.shape[-1], device=logits.device) == 0
    log_probs = log_probs.masked_fill(broken & first, float("nan"))
    broken = broken.squeeze(-1)
    return tokens, log_probs, counts.masked_fill(broken, 1), dropped_mass.masked_fill(broken, float("nan"))
