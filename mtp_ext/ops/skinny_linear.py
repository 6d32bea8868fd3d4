"""Contract of `skinny_linear`: a linear layer for few rows, its weight in panels."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.reference.skinny_linear import PANEL

_MOST_FEATURES = 1 << 31


def check_linear(
    op: str,
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    bfloat16_arithmetic: bool,
) -> None:
    """Checks what the ops of linear layers take."""
    checks.check_range(op, "in_features", in_features, 0, _MOST_FEATURES)
    checks.check_range(op, "out_features", out_features, 1, _MOST_FEATURES)
    checks.check_flag(op, "bfloat16_arithmetic", bfloat16_arithmetic)
    checks.check_tensor(op, "x", x, [("rows", None), ("in", in_features)], [torch.float32, torch.bfloat16])
    dtypes = [torch.float32, torch.bfloat16]
    shape: list[checks.Dimension] = [("panels", -(-out_features // PANEL)), ("in", in_features), ("columns", PANEL)]
    if isinstance(panels, Tensor) and panels.dtype == torch.bfloat16:
        shape[1:] = [("pairs", -(-in_features // 2)), ("columns", PANEL), ("pair", 2)]
        dtypes = [torch.bfloat16]
    checks.check_tensor(op, "panels", panels, shape, dtypes, x)
    if not panels.is_contiguous():
        raise ValueError(f"{op}: panels must be contiguous; call .contiguous() on it")
    if bias is not None:
        checks.check_tensor(op, "bias", bias, [("out", out_features)], [torch.float32], x)
    if bfloat16_arithmetic and panels.dtype != torch.bfloat16:
        raise ValueError(f"{op}: bfloat16 arithmetic needs weights that are stored in bfloat16, got float32")


def _check(
    x: Tensor, panels: Tensor, bias: Tensor | None, in_features: int, out_features: int, bfloat16_arithmetic: bool
) -> None:
    check_linear("skinny_linear", x, panels, bias, in_features, out_features, bfloat16_arithmetic)


def _fake(
    x: Tensor, panels: Tensor, bias: Tensor | None, in_features: int, out_features: int, bfloat16_arithmetic: bool
) -> Tensor:
    return x.new_empty(x.shape[0], out_features, dtype=torch.float32)


skinny_linear = define(
    "skinny_linear(Tensor x, Tensor panels, Tensor? bias, int in_features, int out_features, "
    "bool bfloat16_arithmetic) -> Tensor",
    check=_check,
    reference=reference.skinny_linear,
    fake=_fake,
)

define_no_gradient("skinny_linear")
