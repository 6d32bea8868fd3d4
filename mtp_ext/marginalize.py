"""Summing out the branches."""

from typing import NamedTuple

from torch import Tensor

from mtp_ext import ops


class TopTokens(NamedTuple):
    """The most probable tokens of each row: `log_probs` float32 [rows, k] in nats, `tokens` int64 [rows, k]."""

    log_probs: Tensor
    tokens: Tensor


class TopPairs(NamedTuple):
    """The most probable (branch, token) pairs of each row: float32, int64 and int64, each [rows, k]."""

    log_probs: Tensor
    branches: Tensor
    tokens: Tensor


def marginalize(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    *,
    renormalize: bool = True,
) -> Tensor:
    """The next-token distribution with the branch summed out, a mixture of softmaxes in log space:

        out[r, v] = log sum_b exp(w[r, b]) softmax(logits[r, b])[v]

    Differentiable in both inputs. No underflow down to -1e4 nats. A branch of weight -inf counts for nothing,
    whatever its logits; a row without branches is -inf; a branch whose logits are all -inf, or hold a NaN or +inf,
    makes its row NaN.

    Args:
        branch_logits: [rows, branches, vocab], or [m, vocab] with `indptr`; float32, bfloat16 or float16, contiguous
            in the last dimension, any strides in the others. Arithmetic is float32.
        branch_log_probs: float32 [rows, branches], or [m] with `indptr`: log-weights w of the branches, in nats.
        indptr: int64 [rows + 1]; row r owns branches indptr[r] to indptr[r + 1].
        renormalize: make the weights of each row sum to one first.

    Returns:
        Log-probabilities, float32 [rows, vocab], in nats.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device, or an indptr that does not ascend from 0 to m.

    Source: equation 6 of arXiv 2502.09419.
    """
    out: Tensor = ops.marginalize(branch_logits, branch_log_probs, indptr, renormalize)
    return out


def marginalize_topk(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    *,
    k: int,
    renormalize: bool = True,
) -> TopTokens:
    """The k most probable tokens of `marginalize`, without ever writing a [rows, vocab] result.

    Ties go to the lower token id. Where fewer than k tokens have a probability, the rest is -inf with token -1; a NaN
    row is NaN with token -1.

    Args:
        branch_logits, branch_log_probs, indptr, renormalize: as in `marginalize`.
        k: from 1 to vocab.

    Returns:
        `TopTokens(log_probs, tokens)`, each [rows, k], most probable first.

    Raises:
        ValueError, TypeError: as in `marginalize`, or k out of range.
    """
    return TopTokens(*ops.marginalize_topk(branch_logits, branch_log_probs, indptr, k, renormalize))


def marginalize_targets(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None = None,
    *,
    renormalize: bool = True,
) -> Tensor:
    """The log-probability that `marginalize` gives to one token a row: a loss, without a [rows, vocab] result.

    Differentiable in `branch_logits` and `branch_log_probs`.

    Args:
        branch_logits, branch_log_probs, indptr, renormalize: as in `marginalize`.
        targets: int64 [rows], token ids from 0 to vocab - 1.

    Returns:
        Log-probabilities, float32 [rows], in nats.

    Raises:
        ValueError, TypeError: as in `marginalize`, or a target out of range (on a CPU).
    """
    out: Tensor = ops.marginalize_targets(branch_logits, branch_log_probs, targets, indptr, renormalize)
    return out


def joint_topk(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None = None, *, k: int) -> TopPairs:
    """The k most probable (branch, token) pairs of each row: what a tree of candidates grows from.

    A pair's log-probability is w[r, b] + log_softmax(logits[r, b])[v]; the weights are taken as they are. Ties go to
    the lower branch, then to the lower token id.

    Args:
        branch_logits, branch_log_probs, indptr: as in `marginalize`.
        k: at least 1.

    Returns:
        `TopPairs(log_probs, branches, tokens)`, each [rows, k], most probable first. Branch numbers are local to the
        row. Short rows end in -inf, -1, -1; a row that `marginalize` would make NaN is NaN, -1, -1.

    Raises:
        ValueError, TypeError: as in `marginalize`, or k out of range.
    """
    return TopPairs(*ops.joint_topk(branch_logits, branch_log_probs, indptr, k))
