"""Contract of `linear_into_`: a float32 linear layer whose outputs go to a place that is there already."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define
from mtp_ext.ops.skinny_linear import check_linear

_OP = "linear_into_"


def _check(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int | None) -> None:
    checks.check_tensor(_OP, "x", x, [("rows", None), ("in", None)], [torch.float32, torch.bfloat16])
    rows, in_features = x.shape
    if out_features is None:
        checks.check_tensor(_OP, "weight", weight, [("out", None), ("in", in_features)], checks.LOGIT_DTYPES, x)
        out_features = weight.shape[0]
        if bias is not None:
            checks.check_tensor(_OP, "bias", bias, [("out", out_features)], [torch.float32], x)
    else:
        check_linear(_OP, x, weight, bias, in_features, out_features, False)
    checks.check_tensor(_OP, "out", out, [("rows", rows), ("out", out_features)], [torch.float32], x)


def _fake(*_: Tensor | int | None) -> None:
    return None


linear_into_ = define(
    "linear_into_(Tensor(a!) out, Tensor x, Tensor weight, Tensor? bias, int? out_features) -> ()",
    check=_check,
    reference=reference.linear_into_,
    fake=_fake,
)
