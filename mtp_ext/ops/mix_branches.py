"""Contract of `mix_branches`: the mixture of branches whose normalisers are known."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient

_OP = "mix_branches"


def _check(branch_logits: Tensor, branch_log_probs: Tensor, normalizers: Tensor, indptr: Tensor) -> None:
    checks.check_branches(_OP, branch_logits, branch_log_probs, indptr)
    shape: list[checks.Dimension] = [("m", branch_logits.shape[0]), ("parts", 2)]
    checks.check_tensor(_OP, "normalizers", normalizers, shape, [torch.float64], branch_logits)


def _fake(branch_logits: Tensor, branch_log_probs: Tensor, normalizers: Tensor, indptr: Tensor) -> Tensor:
    return branch_log_probs.new_empty(indptr.shape[0] - 1, branch_logits.shape[-1])


mix_branches = define(
    "mix_branches(Tensor branch_logits, Tensor branch_log_probs, Tensor normalizers, Tensor indptr) -> Tensor",
    check=_check,
    reference=reference.mix_branches,
    fake=_fake,
)

define_no_gradient("mix_branches")
