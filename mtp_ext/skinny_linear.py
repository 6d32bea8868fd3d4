"""Linear layers for few rows, such as the nodes of a tree: limited by the reading of their weights."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mtp_ext import ops
from mtp_ext.reference.skinny_linear import from_panels, to_panels

_ARITHMETIC = {"float32": False, "bfloat16": True}


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """The weight [out, in] of a linear layer, laid out for `skinny_linear` by `pack_linear`.

    Attributes:
        panels: float32 or bfloat16; how the numbers lie in it is private to the library.
        in_features, out_features: the shape of the weight.
    """

    panels: Tensor
    in_features: int
    out_features: int

    @property
    def storage(self) -> torch.dtype:
        """The dtype that the weights are stored in."""
        return self.panels.dtype

    def unpack(self) -> Tensor:
        """The weight again: [out, in] in the dtype that it is stored in."""
        return from_panels(self.panels, self.in_features, self.out_features)

    def to(self, device: str | torch.device) -> "PackedLinear":
        """The same on another device."""
        return replace(self, panels=self.panels.to(device))


class TopOutputs(NamedTuple):
    """The largest outputs of each row: `values` float32 [..., k], `tokens` int64 [..., k]."""

    values: Tensor
    tokens: Tensor


def pack_linear(weight: Tensor, storage: torch.dtype | None = None) -> PackedLinear:
    """Lays the weight of a linear layer out for `skinny_linear`.

    Args:
        weight: [out, in], float32 or bfloat16, out at least 1.
        storage: torch.float32, or torch.bfloat16 where every weight is a bfloat16 number, which makes results no
            different and halves what is read. Default: bfloat16 where that is so, else float32.

    Raises:
        ValueError, TypeError: a wrong shape or dtype, or bfloat16 asked for weights that it would round; say
            `weight.bfloat16()` to round them.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"pack_linear: weight must be a Tensor, got {type(weight).__name__}")
    if weight.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"pack_linear: weight must be float32 or bfloat16, got {weight.dtype}".replace("torch.", ""))
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"pack_linear: weight must be [out, in] with at least one output, got {list(weight.shape)}")
    if storage not in (None, torch.float32, torch.bfloat16):
        raise ValueError(f"pack_linear: storage must be None, torch.float32 or torch.bfloat16, got {storage}")
    weight = weight.detach()
    if storage != torch.float32:
        rounded = weight.bfloat16()
        inexact = (rounded != weight) & ~weight.isnan()
        if not inexact.any():
            weight = rounded
        elif storage == torch.bfloat16:
            row, column = inexact.nonzero()[0].tolist()
            raise ValueError(
                "pack_linear: storage bfloat16 needs weights that are bfloat16 numbers, got "
                f"weight[{row}, {column}]={weight[row, column].item()!r}; say weight.bfloat16() to round them"
            )
    if storage == torch.float32:
        weight = weight.float()
    return PackedLinear(to_panels(weight), weight.shape[1], weight.shape[0])


def skinny_linear(
    x: Tensor, packed: PackedLinear, bias: Tensor | None = None, *, arithmetic: str = "float32"
) -> Tensor:
    """x @ weight.T + bias, for few rows.

    Arithmetic is float32 whatever the storage: weights stored in bfloat16 give exactly what the same weights stored in
    float32 give. On a CPU each row's result depends on that row alone, never on how many rows there are, where it
    stands, or the number of threads; on a GPU it is torch's own product, without that promise. Has no gradient.

    Args:
        x: [..., in], float32 or bfloat16, contiguous in the last dimension; any strides where it is [rows, in].
        packed: what `pack_linear` made of the weight [out, in].
        bias: float32 [out].
        arithmetic: "bfloat16" rounds x to bfloat16 and uses bfloat16 dot products, summed in float32, where the CPU
            has them; weights must then be stored in bfloat16.

    Returns:
        float32 [..., out].

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device.
    """
    inputs = _inputs("skinny_linear", x, packed, bias)
    out: Tensor = ops.skinny_linear(*inputs, _chosen("skinny_linear", arithmetic))
    return out if x.dim() == 2 else out.view(*x.shape[:-1], packed.out_features)


def skinny_linear_topk(
    x: Tensor, packed: PackedLinear, bias: Tensor | None = None, *, k: int, arithmetic: str = "float32"
) -> TopOutputs:
    """The k largest outputs of `skinny_linear` in each row, without a [rows, out] result: for the head of a model.

    Ties go to the lower index. An output of -inf has token -1; a row that holds NaN or +inf is NaN with token -1.
    Values are bit for bit those of `skinny_linear`.

    Args:
        x, packed, bias, arithmetic: as in `skinny_linear`.
        k: from 1 to out.

    Returns:
        `TopOutputs(values, tokens)`, each [..., k], largest first.

    Raises:
        ValueError, TypeError: as in `skinny_linear`, or k out of range.
    """
    inputs = _inputs("skinny_linear_topk", x, packed, bias)
    values, tokens = ops.skinny_linear_topk(*inputs, k, _chosen("skinny_linear_topk", arithmetic))
    if x.dim() == 2:
        return TopOutputs(values, tokens)
    return TopOutputs(values.view(*x.shape[:-1], k), tokens.view(*x.shape[:-1], k))


def skinny_linear_argmax(
    x: Tensor, packed: PackedLinear, bias: Tensor | None = None, *, arithmetic: str = "float32"
) -> Tensor:
    """The index of the largest output of `skinny_linear` in each row: `skinny_linear_topk` with k=1.

    Returns:
        int64 [...]; ties go to the lower index; -1 where a row holds NaN or +inf, or nothing but -inf, as in
            `verify_greedy`.
    """
    return skinny_linear_topk(x, packed, bias, k=1, arithmetic=arithmetic).tokens.squeeze(-1)


def _inputs(
    op: str, x: Tensor, packed: PackedLinear, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, int, int]:
    """What both ops take first, x as a matrix."""
    if not isinstance(packed, PackedLinear):
        raise TypeError(f"{op}: packed must be a PackedLinear, as pack_linear makes it, got {type(packed).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be a Tensor, got {type(x).__name__}")
    if x.dim() == 1:
        x = x[None]
    elif x.dim() > 2:
        x = x.flatten(0, -2)
    return x, packed.panels, bias, packed.in_features, packed.out_features


def _chosen(op: str, arithmetic: str) -> bool:
    if arithmetic not in _ARITHMETIC:
        raise ValueError(f'{op}: arithmetic must be "float32" or "bfloat16", got {arithmetic!r}')
    return _ARITHMETIC[arithmetic]
