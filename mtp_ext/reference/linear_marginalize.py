"""Marginalization from hidden states: of the logits softcap * tanh((hidden @ unembedding.T + bias) / softcap)."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from mtp_ext.reference.marginalize import INFINITY, marginalize, marginalize_targets, marginalize_topk, to_dense
from mtp_ext.reference.numbers import compute


def linear_marginalize(
    branch_hidden: Tensor,
    unembedding: Tensor,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
) -> Tensor:
    """[rows, vocab] from branch_hidden [rows, branches, hidden] or [m, hidden] and unembedding [vocab, hidden]."""
    logits = branch_logits(branch_hidden, unembedding, bias, softcap)
    return marginalize(logits, branch_log_probs, indptr, renormalize)


def linear_marginalize_topk(
    branch_hidden: Tensor,
    unembedding: Tensor,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    k: int = 1,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """The k most probable tokens of each row: log-probabilities and tokens [rows, k]."""
    logits = branch_logits(branch_hidden, unembedding, bias, softcap)
    return marginalize_topk(logits, branch_log_probs, indptr, k, renormalize)


def linear_marginalize_targets(
    branch_hidden: Tensor,
    unembedding: Tensor,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
) -> Tensor:
    """[rows]: the log-probability of one target token a row."""
    logits = branch_logits(branch_hidden, unembedding, bias, softcap)
    return marginalize_targets(logits, branch_log_probs, targets, indptr, renormalize)


def branch_logits(hidden: Tensor, unembedding: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """[..., vocab] from hidden [..., hidden]."""
    numbers = compute(hidden)
    logits = linear(numbers, unembedding.to(numbers.dtype), None if bias is None else bias.to(numbers.dtype))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def branch_normalizers(logits: Tensor) -> Tensor:
    """float64 [m, 2] of logits [m, vocab]: a center c and a rest, log sum_v exp(logits[v]) = c + rest, in nats.

    The rest is -inf where all logits are, and NaN where one is NaN or +inf.
    """
    logits = logits.double()
    if logits.shape[-1] == 0:
        return torch.stack([logits.new_zeros(logits.shape[0]), logits.new_full((logits.shape[0],), -INFINITY)], -1)
    largest = logits.amax(-1)
    center = largest.masked_fill(~largest.isfinite(), 0.0)
    rest = (logits - center[:, None]).logsumexp(-1)
    return torch.stack([center, rest.masked_fill(largest.isnan() | (largest == INFINITY), float("nan"))], -1)


def mix_branches(logits: Tensor, log_weights: Tensor, normalizers: Tensor, indptr: Tensor) -> Tensor:
    """[rows, vocab]: log sum over the branches b of a row of exp(log_weights[b] + logits[b] - normalizer[b]).

    logits [m, vocab], log_weights [m], normalizers [m, 2] as `branch_normalizers` gives them, indptr [rows + 1].
    """
    center, rest = normalizers.unbind(-1)
    usable = rest.isfinite() & (log_weights < INFINITY)
    rest = rest.masked_fill(~usable, float("nan"))
    terms = (compute(logits) - center[:, None]).float() - rest[:, None].float() + log_weights[:, None]
    terms = terms.masked_fill((log_weights == -INFINITY)[:, None], -INFINITY)
    dense, weights = to_dense(terms, log_weights, indptr)
    return dense.masked_fill((weights == -INFINITY)[..., None], -INFINITY).logsumexp(-2)
