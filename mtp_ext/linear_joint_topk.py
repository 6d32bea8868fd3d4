"""The most probable (branch, token) pairs straight from hidden states: `joint_topk`, a chunk of branches at a time.

A composition of the ops: logits of a chunk, `joint_topk` of it, and its pairs among those found so far.
"""

import torch
from torch import Tensor

from mtp_ext.linear_marginalize import WORKSPACE_BYTES
from mtp_ext.marginalize import TopPairs, joint_topk
from mtp_ext.ops import checks
from mtp_ext.ops.vocab_head import VocabHead
from mtp_ext.reference.numbers import top_descending

_LARGEST_K = 1 << 20  # as of `joint_topk`


@torch.no_grad()
def linear_joint_topk(
    branch_hidden: Tensor,
    unembedding: Tensor,
    branch_log_probs: Tensor,
    *,
    k: int,
    bias: Tensor | None = None,
    softcap: float | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> TopPairs:
    """The k most probable pairs of `joint_topk`, of the logits softcap * tanh((hidden @ unembedding.T + bias) /
    softcap), which exist a chunk of branches at a time.

    Args:
        branch_hidden: [branches, hidden] of one request; float32, bfloat16 or float16, contiguous in the last
            dimension.
        unembedding: [vocab, hidden], likewise.
        branch_log_probs: float32 [branches], nats; taken as they are.
        k: at least 1.
        bias: [vocab].
        softcap: a positive number.
        workspace_bytes: for logits; those of one branch are taken in any case.

    Returns:
        `TopPairs(log_probs, branches, tokens)`, each [k], most probable first, ties to the lower branch, then to the
        lower token; beyond the last pair -inf, -1, -1. A broken branch makes all of it NaN, -1, -1.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device, k out of range, or what `joint_topk` refuses.
    """
    _check(branch_hidden, unembedding, bias)
    head = VocabHead(branch_hidden, unembedding, None, bias, softcap)
    chunk_size = max(1, workspace_bytes // max(1, head.vocab * head.dtype.itemsize))
    checks.check_range("linear_joint_topk", "k", k, 1, _LARGEST_K)
    best = no_pairs(k, branch_log_probs.device)
    for first in range(0, branch_hidden.shape[0], chunk_size):
        hidden = branch_hidden[first : first + chunk_size]
        logits = hidden.new_empty(hidden.shape[0], head.vocab, dtype=head.dtype)
        width = head.chunk_width(hidden.shape[0])
        for token in range(0, head.vocab, width):
            end = min(token + width, head.vocab)
            head.write_logits(hidden, token, end, logits[:, token:end])
        found = joint_topk(logits[None], branch_log_probs[None, first : first + chunk_size], k=k)
        best = better_pairs(best, found, first)
    return best


def _check(branch_hidden: Tensor, unembedding: Tensor, bias: Tensor | None) -> None:
    op = "linear_joint_topk"
    shape: list[checks.Dimension] = [("branches", None), ("hidden", None)]
    checks.check_tensor(op, "branch_hidden", branch_hidden, shape, checks.LOGIT_DTYPES)
    shape = [("vocab", None), ("hidden", branch_hidden.shape[1])]
    checks.check_tensor(op, "unembedding", unembedding, shape, checks.LOGIT_DTYPES, branch_hidden)
    if bias is not None:
        checks.check_tensor(op, "bias", bias, [("vocab", unembedding.shape[0])], checks.LOGIT_DTYPES, branch_hidden)


def no_pairs(k: int, device: torch.device) -> TopPairs:
    """k times -inf, -1, -1."""
    absent = torch.full((k,), -1, device=device)
    return TopPairs(torch.full((k,), float("-inf"), device=device), absent, absent)


def better_pairs(best: TopPairs, found: TopPairs, first: int) -> TopPairs:
    """The best [k] of those so far and of those [1, k] of a chunk of branches, which begins at branch `first`."""
    log_probs = torch.cat([best.log_probs, found.log_probs[0]])
    branches = torch.cat([best.branches, found.branches[0].where(found.branches[0] < 0, found.branches[0] + first)])
    tokens = torch.cat([best.tokens, found.tokens[0]])
    # Branches of an earlier chunk are lower and stand first, as ties must. NaN comes before all: a broken branch has
    # made all of its chunk's pairs NaN, and so does it with the row's.
    values, place = top_descending(log_probs, best.tokens.shape[0])
    return TopPairs(values, *(field[place.clamp(min=0)].where(place >= 0, -1) for field in (branches, tokens)))
