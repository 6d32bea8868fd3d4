"""Contract of `merge_states`: attention over two disjoint sets of keys, joined."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient

_OP = "merge_states"


def _check(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> None:
    shape: list[checks.Dimension] = [("batch", None), ("nodes", None), ("heads", None), ("value_dim", None)]
    checks.check_tensor(_OP, "out_a", out_a, shape, checks.LOGIT_DTYPES)
    shape = [(name, size) for (name, _), size in zip(shape, out_a.shape, strict=True)]
    checks.check_tensor(_OP, "out_b", out_b, shape, [out_a.dtype], out_a)
    checks.check_tensor(_OP, "lse_a", lse_a, shape[:3], [torch.float32], out_a)
    checks.check_tensor(_OP, "lse_b", lse_b, shape[:3], [torch.float32], out_a)


def _fake(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    return out_a.new_empty(out_a.shape), lse_a.new_empty(lse_a.shape)


merge_states = define(
    "merge_states(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor, Tensor)",
    check=_check,
    reference=reference.merge_states,
    fake=_fake,
)

define_no_gradient("merge_states")
