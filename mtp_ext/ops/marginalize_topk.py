"""Contract of `marginalize_topk`: the most probable tokens of the mixture."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient


def _check(branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, k: int, renormalize: bool) -> None:
    _, vocab = checks.check_branches("marginalize_topk", branch_logits, branch_log_probs, indptr)
    checks.check_range("marginalize_topk", "k", k, 1, vocab)
    checks.check_flag("marginalize_topk", "renormalize", renormalize)


def _fake(
    branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, k: int, renormalize: bool
) -> tuple[Tensor, Tensor]:
    rows = branch_logits.shape[0] if indptr is None else indptr.shape[0] - 1
    log_probs = branch_log_probs.new_empty(rows, k)
    return log_probs, log_probs.new_empty(rows, k, dtype=torch.int64)


marginalize_topk = define(
    "marginalize_topk(Tensor branch_logits, Tensor branch_log_probs, Tensor? indptr, int k, bool renormalize) "
    "-> (Tensor, Tensor)",
    check=_check,
    reference=reference.marginalize_topk,
    fake=_fake,
)

define_no_gradient("marginalize_topk")
