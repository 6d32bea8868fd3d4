"""Summing out the branches straight from their hidden states: no [branches, vocab] logits, however many there are."""

from typing import Any

import torch
from torch import Tensor

from mtp_ext import ops
from mtp_ext.marginalize import TopTokens
from mtp_ext.skinny_linear import PackedLinear
from mtp_ext.vocab_dtensor import local_copy, local_slice, vocab_group

WORKSPACE_BYTES = 48 << 20


def linear_marginalize(
    branch_hidden: Tensor,
    unembedding: Tensor | PackedLinear,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
    group: "torch.distributed.ProcessGroup | None" = None,
) -> Tensor:
    """`marginalize` of the logits softcap * tanh((hidden @ unembedding.T + bias) / softcap), which exist a group of
    branches at a time.

    The product is done once; the unembedding is read once for each group of branches whose logits fit the workspace.
    Hidden states and unembedding of one dtype are multiplied in it, and logits are rounded to it, as a model's own head
    does; otherwise, and for float16 on a CPU, both are float32, and with a packed unembedding too. The result is the
    same bit for bit for any number of threads, but where the product is torch's own: on a GPU, and in bfloat16 for more
    than 16 branches on a CPU with tiles for it (AMX).

    With a group, each rank holds a slice of the vocabulary, in the order of the ranks, of any length, 0 included; all
    else is the same on every rank. Ranks exchange normalisers, never logits, and a rank that refuses its arguments
    tells the others. A DTensor unembedding, placed as Shard(0), brings its group; a bias is then one too, and the
    other arguments may be, placed as Replicate(). Results are this rank's own tensors.

    Has no gradient; `linear_marginalize_targets` has.

    Args:
        branch_hidden: [rows, branches, hidden], or [m, hidden] with `indptr`; float32, bfloat16 or float16, contiguous
            in the last dimension. On a GPU, which branches have weight -inf is read first: it waits for the device.
        unembedding: [vocab, hidden], float32, bfloat16 or float16, or what `pack_linear` made of it.
        branch_log_probs: float32 [rows, branches], or [m] with `indptr`: log-weights of the branches, in nats.
        indptr: int64 [rows + 1]; row r owns branches indptr[r] to indptr[r + 1].
        bias: [vocab], float32, bfloat16 or float16.
        softcap: a positive number.
        renormalize: make the weights of each row sum to one first.
        workspace_bytes: for logits; at least those of one branch. A few MiB are needed besides.
        group: a `torch.distributed` process group, for a vocabulary in slices.

    Returns:
        Log-probabilities, float32 [rows, vocab], in nats; with a group, of this rank's slice.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device, an indptr that does not ascend from 0 to m, a workspace
            too small for one branch, or ranks that do not bring the same.

    Source: equation 6 of arXiv 2502.09419.
    """
    op = "linear_marginalize"
    inputs = _inputs(
        op, branch_hidden, unembedding, branch_log_probs, indptr, bias, softcap, renormalize, workspace_bytes, group
    )
    out: Tensor = ops.linear_marginalize(*inputs)
    return out


def linear_marginalize_topk(
    branch_hidden: Tensor,
    unembedding: Tensor | PackedLinear,
    branch_log_probs: Tensor,
    indptr: Tensor | None = None,
    *,
    k: int,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
    group: "torch.distributed.ProcessGroup | None" = None,
) -> TopTokens:
    """The k most probable tokens of `linear_marginalize`, without a [rows, vocab] result.

    Ties go to the lower token id. Where fewer than k tokens have a probability, the rest is -inf with token -1; a NaN
    row is NaN with token -1. With a group, tokens are global, and the same bit for bit on every rank.

    Args:
        branch_hidden, unembedding, branch_log_probs, indptr: as in `linear_marginalize`, and so are the options.
        k: from 1 to vocab.

    Returns:
        `TopTokens(log_probs, tokens)`, each [rows, k], most probable first.

    Raises:
        ValueError, TypeError: as in `linear_marginalize`, or k out of range.
    """
    op = "linear_marginalize_topk"
    inputs = _inputs(
        op, branch_hidden, unembedding, branch_log_probs, indptr, bias, softcap, renormalize, workspace_bytes, group
    )
    return TopTokens(*ops.linear_marginalize_topk(*inputs, k))


def linear_marginalize_targets(
    branch_hidden: Tensor,
    unembedding: Tensor | PackedLinear,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    renormalize: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
    group: "torch.distributed.ProcessGroup | None" = None,
) -> Tensor:
    """The log-probability that `linear_marginalize` gives to one token a row: a loss, by chunks of logits.

    Differentiable in hidden states, branch log-probabilities, bias and a plain unembedding; the gradient computes the
    chunks again. With a group, hidden states get the whole gradient on every rank, the unembedding that of its slice.

    Args:
        branch_hidden, unembedding, branch_log_probs, indptr: as in `linear_marginalize`, and so are the options, but
            that a workspace of 4096 bytes is enough.
        targets: int64 [rows], token ids from 0 to vocab - 1; global ones with a group.

    Returns:
        Log-probabilities, float32 [rows], in nats; with a group, the same bit for bit on every rank.

    Raises:
        ValueError, TypeError: as in `linear_marginalize`, or a target out of range (on a CPU).
    """
    op = "linear_marginalize_targets"
    inputs = _inputs(
        op, branch_hidden, unembedding, branch_log_probs, indptr, bias, softcap, renormalize, workspace_bytes, group
    )
    out: Tensor = ops.linear_marginalize_targets(*inputs, local_copy(op, "targets", targets))[0]
    return out


def _inputs(
    op: str,
    branch_hidden: Tensor,
    unembedding: Tensor | PackedLinear,
    branch_log_probs: Tensor,
    indptr: Tensor | None,
    bias: Tensor | None,
    softcap: float | None,
    renormalize: bool,
    workspace_bytes: int,
    group: "torch.distributed.ProcessGroup | None",
) -> tuple[Any, ...]:
    """The arguments that the ops have in common, of DTensors the local part."""
    group = vocab_group(op, unembedding, group)
    weight, out_features = local_slice(op, "unembedding", unembedding), None
    if isinstance(unembedding, PackedLinear):
        weight, out_features = unembedding.panels, unembedding.out_features
    hidden = local_copy(op, "branch_hidden", branch_hidden)
    log_probs = local_copy(op, "branch_log_probs", branch_log_probs)
    shared = (hidden, weight, log_probs, local_copy(op, "indptr", indptr), local_slice(op, "bias", bias), softcap)
    return *shared, out_features, renormalize, workspace_bytes, None if group is None else group.group_name
