"""Contract of `linear_marginalize_targets`: the mixture's log-probability of one token a row, from hidden states.

Only the normalisers and one logit a branch are kept, so that a chunk of the logits is all that there ever is of them,
and all of the product is done with a chunk of the unembedding while that is in the cache. The gradient computes the
chunks again.
"""

from typing import Any

import torch
from torch import Tensor

from mtp_ext.ops import checks
from mtp_ext.ops.branch_normalizers import branch_normalizers, join_normalizers
from mtp_ext.ops.hidden_branches import HiddenBranches
from mtp_ext.ops.library import define, define_gradient
from mtp_ext.ops.linear_branches import SCHEMA, LinearBranches
from mtp_ext.ops.vocab_shards import VocabShards

_OP = "linear_marginalize_targets"


def _check(*args: Any) -> None:
    inputs, targets = LinearBranches(*args[:-1]), args[-1]
    inputs.check_alone(_OP)
    if inputs.group_name is None:
        _check_targets(inputs, targets, inputs.vocab)


def _check_targets(inputs: LinearBranches, targets: Tensor, vocab: int) -> None:
    checks.check_tensor(_OP, "targets", targets, [("rows", inputs.rows)], [torch.int64], inputs.branch_hidden)
    if checks.has_values(targets):
        for row, token in enumerate(targets.tolist()):
            if not 0 <= token < vocab:
                raise ValueError(f"{_OP}: targets must be from 0 to {vocab - 1}, got targets[{row}]={token}")


def _linear_marginalize_targets(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [rows]; of each branch that of the target, nats, and the normaliser, float64 [m] and [m, 2]."""
    inputs, targets = LinearBranches(*args[:-1]), args[-1]
    shards = inputs.open(_OP, **_facts(targets))
    _check_targets(inputs, targets, shards.vocab)
    branches = inputs.branches()
    normalizers, logits = _read_logits(inputs, branches, targets[branches.row], shards)
    center, rest = normalizers.unbind(-1)
    token_log_probs = (logits - center) - rest.masked_fill(rest == -float("inf"), float("nan"))
    out = branches.row_logsumexp(branches.log_weights + token_log_probs).float()
    m = inputs.branch_log_probs.numel()
    return out, branches.spread(token_log_probs, m), branches.spread(normalizers, m)


def _read_logits(
    inputs: LinearBranches, branches: HiddenBranches, wanted: Tensor, shards: VocabShards
) -> tuple[Tensor, Tensor]:
    """The branches' normalisers, float64 [m, 2], and their logits of the wanted tokens, float64 [m]."""
    local = wanted - shards.offset
    logit = inputs.branch_log_probs.new_zeros(len(branches), dtype=torch.float64)
    nothing = torch.stack([logit, torch.full_like(logit, -float("inf"))], -1)
    parts: dict[int, Tensor] = {-1: nothing}  # by first token
    for some, tokens, logits in inputs.chunks(branches, inputs.head()):
        parts.setdefault(tokens.start, torch.empty_like(nothing))[some] = branch_normalizers(logits)
        place = local[some] - tokens.start
        inside = (place >= 0) & (place < logits.shape[1])
        found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        logit[some] = torch.where(inside, found.double(), logit[some])
    normalizers = join_normalizers(torch.stack(list(parts.values())))
    told = shards.gather(torch.cat([normalizers, logit[:, None]], -1))  # [ranks, m, 3]
    owner = shards.owner(wanted)
    return join_normalizers(told[..., :2]), told[..., 2].gather(0, owner[None])[0]


def _facts(targets: Tensor) -> dict[str, float]:
    weighted = targets.double() * torch.arange(1, targets.numel() + 1, device=targets.device).view(targets.shape)
    return {"the number of targets": targets.numel(), "the checksum of targets": float(weighted.sum())}


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    log_probs, targets = args[2], args[-1]
    branches = log_probs.numel()
    numbers = log_probs.new_empty(branches, 2, dtype=torch.float64)
    return log_probs.new_empty(targets.shape[0]), numbers.new_empty(branches), numbers


linear_marginalize_targets = define(
    f"{_OP}({SCHEMA}, Tensor targets) -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=_linear_marginalize_targets,
    fake=_fake,
)


def _linear_marginalize_targets_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of hidden states, unembedding, branch log-probabilities and bias; empty where not wanted."""
    inputs = LinearBranches(*args[:10])
    targets, grad, out, token_log_probs, normalizers, of_unembedding, of_bias = args[10:]
    shards = VocabShards([inputs.vocab]) if inputs.group_name is None else inputs.open(_OP)
    branches, head = inputs.branches(), inputs.head()
    if branches.kept is not None:
        token_log_probs, normalizers = token_log_probs[branches.kept], normalizers[branches.kept]
    center, rest = (x.float()[:, None] for x in normalizers.unbind(-1))
    local = targets[branches.row] - shards.offset

    # r_b, the responsibility of branch b for the target, exp(w_b + log p_b - out); the gradient of its logits is
    # grad r_b (onehot - p_b).
    nothing = out == -float("inf")
    share = (branches.log_weights + token_log_probs - out.masked_fill(nothing, 0.0).double()[branches.row]).exp()
    flow = (share * grad.masked_fill(nothing, 0.0).double()[branches.row]).masked_fill(nothing[branches.row], 0.0)

    hidden_grad = torch.zeros_like(branches.hidden, dtype=torch.float32)
    unembedding_grad = inputs.unembedding.new_zeros(inputs.unembedding.shape if of_unembedding else 0)
    bias_grad = inputs.branch_log_probs.new_zeros(inputs.vocab if of_bias else 0)
    part = branches.hidden.new_zeros(0)  # of the unembedding, summed in float32 over the groups of branches
    for some, tokens, logits in inputs.chunks(branches, head):
        numbers = logits.float()
        slope = -flow[some, None].float() * ((numbers - center[some]) - rest[some]).exp_()
        place = (local[some] - tokens.start)[:, None]
        inside = (place >= 0) & (place < slope.shape[1])
        slope.scatter_add_(1, place.clamp(0, slope.shape[1] - 1), inside * flow[some, None].float())
        if inputs.softcap is not None:
            slope *= 1.0 - (numbers / inputs.softcap).square_()
        rounded = slope.to(head.dtype)
        hidden_grad[some] += rounded @ head.weight(tokens.start, tokens.stop)
        if of_bias:
            bias_grad[tokens] += slope.sum(0)
        if of_unembedding:
            product = (rounded.T @ branches.hidden[some].to(head.dtype)).float()
            part = product if some.start == 0 else part.add_(product)
            unembedding_grad[tokens] = part.to(unembedding_grad.dtype)

    weight_grad = flow
    if inputs.renormalize:
        weight_grad = flow - branches.log_weights.exp() * branches.row_sum(flow)[branches.row]
    m = inputs.branch_log_probs.numel()
    hidden_grad = branches.spread(shards.sum(hidden_grad), m).to(branches.hidden.dtype)
    return (
        hidden_grad.view(inputs.branch_hidden.shape),
        unembedding_grad,
        branches.spread(weight_grad, m).float().view(inputs.branch_log_probs.shape),
        bias_grad if inputs.bias is None else bias_grad.to(inputs.bias.dtype),
    )


def _fake_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, of_unembedding, of_bias = LinearBranches(*args[:10]), args[-2], args[-1]
    hidden, unembedding, log_probs = inputs.branch_hidden, inputs.unembedding, inputs.branch_log_probs
    bias = log_probs if inputs.bias is None else inputs.bias
    return (
        hidden.new_empty(hidden.shape),
        unembedding.new_empty(unembedding.shape if of_unembedding else 0),
        log_probs.new_empty(log_probs.shape),
        bias.new_empty(inputs.vocab if of_bias else 0),
    )


linear_marginalize_targets_backward = define(
    f"{_OP}_backward({SCHEMA}, Tensor targets, Tensor grad, Tensor out, Tensor token_log_probs, Tensor normalizers, "
    "bool of_unembedding, bool of_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    check=lambda *args: None,  # these have been through the forward op
    reference=_linear_marginalize_targets_backward,
    fake=_fake_backward,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[5:-1]  # from softcap to group_name
    ctx.save_for_backward(*inputs[:5], inputs[-1], *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    *tensors, targets, out, token_log_probs, normalizers = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:5]
    if wanted[1] and ctx.options[1] is not None:
        raise RuntimeError(f"{_OP}: a packed unembedding has no gradient; pass the weight itself")
    hidden, unembedding, log_probs, bias = linear_marginalize_targets_backward(
        *tensors, *ctx.options, targets, grad, out, token_log_probs, normalizers, wanted[1], wanted[4]
    )
    gradients = (hidden, unembedding if wanted[1] else None, log_probs, None, bias if wanted[4] else None)
    return *gradients, *[None] * (len(ctx.options) + 1)


define_gradient(_OP, _setup_context, _backward)
