"""A linear layer whose weight [out, in] lies in panels of 32 output columns, and its k largest outputs.

    float32:  panels[p, i, c]        = weight[32 p + c, i]                [ceil(out / 32), in, 32]
    bfloat16: panels[p, i, c, j]     = weight[32 p + c, 2 i + j]          [ceil(out / 32), ceil(in / 2), 32, 2]

Zeros fill what is beyond the weight. A kernel reads panels from front to back, 32 outputs for each input; pairs of
bfloat16 are 32-bit words, which a shift and a mask widen, and the operands of bfloat16 dot products.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from mtp_ext.reference.numbers import compute, top_descending

PANEL = 32  # output columns


def to_panels(weight: Tensor) -> Tensor:
    """The panels of a weight [out, in], in its dtype."""
    out_features, in_features = weight.shape
    panels = -(-out_features // PANEL)
    rows_beyond = panels * PANEL - out_features
    if weight.dtype != torch.bfloat16:
        return pad(weight, (0, 0, 0, rows_beyond)).view(panels, PANEL, in_features).transpose(1, 2).contiguous()
    padded = pad(weight, (0, in_features % 2, 0, rows_beyond))
    return padded.view(panels, PANEL, -(-in_features // 2), 2).transpose(1, 2).contiguous()


def from_panels(panels: Tensor, in_features: int, out_features: int) -> Tensor:
    """The weight [out, in] again, in the dtype of its panels."""
    return panels.transpose(1, 2).flatten(2).flatten(0, 1)[:out_features, :in_features].contiguous()


def skinny_linear(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    bfloat16_arithmetic: bool = False,
) -> Tensor:
    """[rows, out] from x [rows, in]."""
    numbers = compute(x.bfloat16().to(x.dtype) if bfloat16_arithmetic else x)
    weight = from_panels(panels, in_features, out_features).to(numbers.dtype)
    return linear(numbers, weight, None if bias is None else bias.to(numbers.dtype))


def linear_into_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int | None) -> None:
    """Writes x [rows, in] times the weight, [out, in] or its panels, into out [rows, out], in its dtype."""
    if out_features is not None:
        weight = from_panels(weight, x.shape[1], out_features)
    if bias is None:
        torch.mm(x.to(out.dtype), weight.to(out.dtype).T, out=out)
    else:
        torch.addmm(bias.to(out.dtype), x.to(out.dtype), weight.to(out.dtype).T, out=out)


def skinny_linear_topk(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    in_features: int,
    out_features: int,
    k: int,
    bfloat16_arithmetic: bool = False,
) -> tuple[Tensor, Tensor]:
    """values and indices [rows, k]; a row that holds NaN or +inf is NaN and -1."""
    result = skinny_linear(x, panels, bias, in_features, out_features, bfloat16_arithmetic)
    values, indices = top_descending(result, k)
    broken = (result.isnan() | result.isposinf()).any(-1, keepdim=True)
    return values.masked_fill(broken, float("nan")), indices.masked_fill(broken, -1)
