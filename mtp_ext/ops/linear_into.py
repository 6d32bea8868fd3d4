"""Contract of `linear_into_`: a linear layer whose outputs go to a place that is there already.

Arithmetic is float32 where that place is; where it is bfloat16, products are of bfloat16 numbers, summed in float32,
and sums are rounded.
"""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define
from mtp_ext.ops.skinny_linear import check_linear

_OP = "linear_into_"


def _check(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int | None) -> None:
    in_bfloat16 = isinstance(out, Tensor) and out.dtype == torch.bfloat16
    storages = [torch.float32, torch.bfloat16]
    x_dtypes = [torch.bfloat16] if in_bfloat16 and out_features is None else storages
    checks.check_tensor(_OP, "x", x, [("rows", None), ("in", None)], x_dtypes)
    rows, in_features = x.shape
    if out_features is None:
        dtypes = [torch.bfloat16] if in_bfloat16 else checks.LOGIT_DTYPES
        checks.check_tensor(_OP, "weight", weight, [("out", None), ("in", in_features)], dtypes, x)
        out_features = weight.shape[0]
        if bias is not None:
            checks.check_tensor(_OP, "bias", bias, [("out", out_features)], [torch.float32], x)
    else:
        check_linear(_OP, x, weight, bias, in_features, out_features, in_bfloat16)
    checks.check_tensor(_OP, "out", out, [("rows", rows), ("out", out_features)], storages, x)


def _fake(*_: Tensor | int | None) -> None:
    return None


linear_into_ = define(
    "linear_into_(Tensor(a!) out, Tensor x, Tensor weight, Tensor? bias, int? out_features) -> ()",
    check=_check,
    reference=reference.linear_into_,
    fake=_fake,
)
