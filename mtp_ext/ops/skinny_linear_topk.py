"""Contract of `skinny_linear_topk`: the largest outputs of a linear layer for few rows."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.skinny_linear import check_linear

_OP = "skinny_linear_topk"


def _check(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    k: int,
    bfloat16_arithmetic: bool,
) -> None:
    check_linear(_OP, x, panels, bias, in_features, out_features, bfloat16_arithmetic)
    checks.check_range(_OP, "k", k, 1, out_features)


def _fake(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    k: int,
    bfloat16_arithmetic: bool,
) -> tuple[Tensor, Tensor]:
    values = x.new_empty(x.shape[0], k, dtype=torch.float32)
    return values, values.new_empty(values.shape, dtype=torch.int64)


skinny_linear_topk = define(
    "skinny_linear_topk(Tensor x, Tensor panels, Tensor? bias, int in_features, int out_features, int k, "
    "bool bfloat16_arithmetic) -> (Tensor, Tensor)",
    check=_check,
    reference=reference.skinny_linear_topk,
    fake=_fake,
)

define_no_gradient("skinny_linear_topk")
