"""Marginalization over branches (equation 6 of arXiv 2502.09419), and what is read off the same terms."""

import torch
from torch import Tensor

from mtp_ext.reference.numbers import compute, top_descending

INFINITY = float("inf")


def marginalize(
    branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None = None, renormalize: bool = True
) -> Tensor:
    """[rows, vocab]: logsumexp over b of (w[r, b] + log_softmax(logits[r, b]))."""
    return _terms(branch_logits, branch_log_probs, indptr, renormalize).logsumexp(-2)


def marginalize_topk(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    k: int = 1,
    renormalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """The k most probable tokens of each row: log-probabilities and tokens [rows, k]."""
    return top_descending(marginalize(branch_logits, branch_log_probs, indptr, renormalize), k)


def marginalize_targets(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None = None,
    renormalize: bool = True,
) -> Tensor:
    """[rows]: the log-probability of one target token a row."""
    mixture = marginalize(branch_logits, branch_log_probs, indptr, renormalize)
    return mixture.gather(-1, targets[:, None]).squeeze(-1)


def joint_topk(
    branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """The k most probable (branch, token) pairs of each row: log-probabilities, branches and tokens [rows, k]."""
    terms = _terms(branch_logits, branch_log_probs, indptr, renormalize=False)
    vocab = terms.shape[-1]
    pairs = terms.flatten(1)
    broken = pairs.isnan().any(-1, keepdim=True)
    log_probs, flat = top_descending(pairs.masked_fill(broken, float("nan")), k)
    log_probs = log_probs.masked_fill(broken, float("nan"))
    found = flat >= 0
    return log_probs, (flat // max(vocab, 1)).where(found, -1), (flat % max(vocab, 1)).where(found, -1)


def _terms(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, renormalize: bool) -> Tensor:
    """[rows, branches, vocab]: w + log_softmax(logits), -inf for branches of weight -inf, NaN for broken ones."""
    if indptr is not None:
        branch_logits, branch_log_probs = to_dense(branch_logits, branch_log_probs, indptr)
    weights = compute(branch_log_probs)
    weights = weights.masked_fill(weights == INFINITY, float("nan"))
    live = weights != -INFINITY
    if renormalize:
        empty = ~live.any(-1, keepdim=True)
        weights = weights.masked_fill(empty, 0.0).log_softmax(-1).masked_fill(empty, -INFINITY)
    logits = compute(branch_logits).masked_fill(~live[..., None], 0.0)
    return weights[..., None] + logits.log_softmax(-1)  # NaN in all of a branch that is all -inf or holds NaN or +inf


def to_dense(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor) -> tuple[Tensor, Tensor]:
    """Ragged branches as [rows, widest, vocab] and [rows, widest], padded with weights of -inf."""
    counts = indptr.diff()
    place = torch.arange(max(counts.tolist(), default=0), device=indptr.device)
    live = place < counts[:, None]
    branch = (indptr[:-1, None] + place).where(live, 0)
    return branch_logits[branch], branch_log_probs[branch].masked_fill(~live, -INFINITY)
