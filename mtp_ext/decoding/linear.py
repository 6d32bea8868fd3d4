"""Linear layers of a model, packed: several that read the same input are one product."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtp_ext.skinny_linear import PackedLinear, pack_linear, skinny_linear, skinny_linear_argmax


@dataclass(frozen=True, eq=False)
class Linear:
    """y = x W^T + b, W [out, in] in panels, b float32 [out] or None; the outputs of several layers side by side."""

    packed: PackedLinear
    bias: Tensor | None
    arithmetic: str

    @classmethod
    def pack(cls, layers: Sequence[nn.Linear], storage: torch.dtype | None, arithmetic: str) -> "Linear":
        """The layers, which read the same input, as one. Copies their weights: `storage` as in `pack_linear`."""
        weights = [layer.weight.detach() for layer in layers]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        if weight.dtype == torch.float16:
            weight = weight.float()
        bias = None
        if any(layer.bias is not None for layer in layers):
            bias = torch.cat(
                [
                    layer.weight.new_zeros(layer.out_features, dtype=torch.float32)
                    if layer.bias is None
                    else layer.bias.detach().float()
                    for layer in layers
                ]
            )
        return cls(pack_linear(weight, storage), bias, arithmetic)

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [..., out] of x [..., in]."""
        return skinny_linear(x, self.packed, self.bias, arithmetic=self.arithmetic)

    def best(self, x: Tensor) -> Tensor:
        """int64 [...]: the index of the largest output, as `skinny_linear_argmax`."""
        return skinny_linear_argmax(x, self.packed, self.bias, arithmetic=self.arithmetic)

    def with_arithmetic(self, arithmetic: str) -> "Linear":
        """The same weights, multiplied in another way."""
        return replace(self, arithmetic=arithmetic)

    def rounded(self, outputs: Tensor | None = None) -> "Linear":
        """With weights rounded to bfloat16, which take half of the time; this very layer where they are.

        Args:
            outputs: int64, those alone that the new layer has; None: all.
        """
        if outputs is None:
            if self.packed.storage == torch.bfloat16:
                return self
            return replace(self, packed=pack_linear(self.packed.unpack().bfloat16()))
        bias = None if self.bias is None else self.bias[outputs]
        return replace(self, packed=pack_linear(self.packed.unpack()[outputs].bfloat16()), bias=bias)

    @property
    def nbytes(self) -> int:
        return self.packed.panels.nbytes
