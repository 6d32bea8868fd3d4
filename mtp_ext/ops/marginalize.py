"""Contract of `marginalize`: the mixture of the branches' next-token distributions."""

from typing import Any

from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.gradients import FlatBranches
from mtp_ext.ops.library import define, define_gradient


def _check(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, renormalize: bool) -> None:
    checks.check_branches("marginalize", branch_logits, branch_log_probs, indptr)
    checks.check_flag("marginalize", "renormalize", renormalize)


def _fake(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, renormalize: bool) -> Tensor:
    rows = branch_logits.shape[0] if indptr is None else indptr.shape[0] - 1
    return branch_log_probs.new_empty(rows, branch_logits.shape[-1])


marginalize = define(
    "marginalize(Tensor branch_logits, Tensor branch_log_probs, Tensor? indptr, bool renormalize) -> Tensor",
    check=_check,
    reference=reference.marginalize,
    fake=_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    branch_logits, branch_log_probs, indptr, ctx.renormalize = inputs
    ctx.save_for_backward(branch_logits, branch_log_probs, indptr, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    branch_logits, branch_log_probs, indptr, output = ctx.saved_tensors
    branches = FlatBranches(branch_logits, branch_log_probs, indptr, ctx.renormalize)
    flow = branches.per_branch(grad) * branches.responsibilities(branches.log_probs, output)
    return *branches.gradients(flow, flow.sum(-1)), None, None


define_gradient("marginalize", _setup_context, _backward)
