"""Contract of `joint_topk`: the most probable (branch, token) pairs."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient

_LARGEST_K = 1 << 20  # more than any tree holds; keeps a mistyped k from filling the memory


def _check(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, k: int) -> None:
    checks.check_branches("joint_topk", branch_logits, branch_log_probs, indptr)
    checks.check_range("joint_topk", "k", k, 1, _LARGEST_K)


def _fake(
    branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows = branch_logits.shape[0] if indptr is None else indptr.shape[0] - 1
    log_probs = branch_log_probs.new_empty(rows, k)
    branches = log_probs.new_empty(rows, k, dtype=torch.int64)
    return log_probs, branches, torch.empty_like(branches)


joint_topk = define(
    "joint_topk(Tensor branch_logits, Tensor branch_log_probs, Tensor? indptr, int k) -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=reference.joint_topk,
    fake=_fake,
)

define_no_gradient("joint_topk")
