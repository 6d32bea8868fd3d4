"""Contract of `marginalize_targets`: the mixture's log-probability of one target token a row."""

from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.gradients import FlatBranches
from mtp_ext.ops.library import define, define_gradient


def _check(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None,
    renormalize: bool,
) -> None:
    op = "marginalize_targets"
    rows, vocab = checks.check_branches(op, branch_logits, branch_log_probs, indptr)
    checks.check_flag(op, "renormalize", renormalize)
    checks.check_tensor(op, "targets", targets, [("rows", rows)], [torch.int64], branch_logits)
    if checks.has_values(targets):
        for row, token in enumerate(targets.tolist()):
            if not 0 <= token < vocab:
                raise ValueError(f"{op}: targets must be from 0 to {vocab - 1}, got targets[{row}]={token}")


def _fake(
    branch_logits: Tensor,
    branch_log_probs: Tensor,
    targets: Tensor,
    indptr: Tensor | None,
    renormalize: bool,
) -> Tensor:
    return branch_log_probs.new_empty(targets.shape[0])


marginalize_targets = define(
    "marginalize_targets(Tensor branch_logits, Tensor branch_log_probs, Tensor targets, Tensor? indptr, "
    "bool renormalize) -> Tensor",
    check=_check,
    reference=reference.marginalize_targets,
    fake=_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    branch_logits, branch_log_probs, targets, indptr, ctx.renormalize = inputs
    ctx.save_for_backward(branch_logits, branch_log_probs, targets, indptr, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    branch_logits, branch_log_probs, targets, indptr, output = ctx.saved_tensors
    branches = FlatBranches(branch_logits, branch_log_probs, indptr, ctx.renormalize)
    column = branches.per_branch(targets)[:, None]
    log_probs = branches.log_probs.gather(-1, column).squeeze(-1)
    total = branches.per_branch(grad) * branches.responsibilities(log_probs, output)
    flow = torch.zeros_like(branches.log_probs).scatter(-1, column, total[:, None])
    return *branches.gradients(flow, total), None, None, None


define_gradient("marginalize_targets", _setup_context, _backward)
