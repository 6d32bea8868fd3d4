"""Cross entropy of a head against a frozen unembedding, and the balance between heads.

    loss[r] = logsumexp(W h[r]) - sum_k q[r, k] (W h[r])[targets[r, k]]          (nats, sum_k q[r, k] = 1)

h [rows, hidden], W [vocab, hidden]. Logits exist for a chunk of rows alone. Since W is frozen, the gradient of h is all
that is wanted, (softmax(W h) - q) W, and is computed with the loss while the chunk's logits are there: two products
where recomputing chunks in the backward pass takes three.
"""

from typing import Any

import torch
from torch import Tensor

from mtp_ext.ops.branch_normalizers import branch_normalizers
from mtp_ext.ops.vocab_head import VocabHead

# At a time. Products have rows enough, for which the unembedding is laid out each time: half as many take 1.07 times as
# long in float32, and twice as many in bfloat16, where the logits then leave a cache of 32 MiB.
_CHUNK_LOGITS = 8 << 20


def head_losses(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    probs: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Cross entropy of each row in nats, float32 [rows], without a [rows, vocab] tensor; differentiable in `hidden`.

    Args:
        hidden: [rows, hidden], after the final norm, contiguous in the last dimension; rounded to the unembedding's
            dtype.
        unembedding: [vocab, hidden], frozen, likewise.
        targets: int64 [rows], or [rows, k] with `probs`.
        probs: float32 [rows, k], how probable each target is; made to sum to one.
        offsets: [vocab], added to the logits: of an unembedding of which only some columns are there, see `Columns`.
    """
    if probs is None:
        targets, probs = targets[:, None], torch.ones_like(targets[:, None], dtype=torch.float32)
    apply: Any = _HeadLosses.apply
    losses: Tensor = apply(hidden, unembedding, targets, probs / probs.sum(-1, keepdim=True), offsets)
    return losses


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, unembedding: Tensor, targets: Tensor, probs: Tensor, offsets: Tensor | None
    ) -> Tensor:
        losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        inputs = hidden.to(unembedding.dtype)
        head = VocabHead(inputs, unembedding, None, offsets, None)
        rows = max(1, _CHUNK_LOGITS // unembedding.shape[0])
        workspace = inputs.new_empty(min(rows, hidden.shape[0]), head.vocab, dtype=head.dtype)
        for start in range(0, hidden.shape[0], rows):
            some = slice(start, min(start + rows, hidden.shape[0]))
            logits = workspace[: some.stop - start]
            head.write_logits(inputs[some], 0, head.vocab, logits)
            wanted = (logits.gather(1, targets[some]).float() * probs[some]).sum(-1)
            losses[some] = branch_normalizers(logits).sum(-1).float() - wanted  # in one pass, where torch makes four
            if slopes is not None:
                slope = torch.softmax(logits, -1, out=logits)
                slope.scatter_add_(1, targets[some], -probs[some].to(slope.dtype))
                slopes[some] = slope.to(unembedding.dtype) @ unembedding
        ctx.slopes = slopes
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        slopes = ctx.slopes
        return None if slopes is None else slopes * grads[0][:, None].to(slopes.dtype), None, None, None, None


def rms_scales(squares: Tensor, counts: Tensor) -> Tensor:
    """What each head's loss is multiplied by, so that its root mean square over a batch equals the first head's.

    Args:
        squares: [heads], sums of squared losses over the batch's rows, without a gradient.
        counts: [heads], how many rows these are; a head without any counts for nothing.

    Source: arXiv 2502.09419.
    """
    rms = (squares / counts.clamp(min=1)).sqrt()
    return torch.where(rms > 0, rms[0] / rms, 1.0)
