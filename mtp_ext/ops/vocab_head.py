"""Chunks of the logits softcap * tanh((hidden @ unembedding.T + bias) / softcap), a range of tokens at a time.

Their dtype is that of hidden states and a plain unembedding where both have the same, so that logits are those of the
model's own head; else it is float32, and float16 on a CPU, where it has no fast product, is float32 too. The product is
`linear_into_`, which takes an unembedding as it lies or packed, in whatever dtype it is stored. Torch's own is for
float16, and for many branches in bfloat16 where the CPU has tiles for them (AMX), which `linear_into_` does not use.
"""

import torch
from torch import Tensor

from mtp_ext.ops.linear_into import linear_into_
from mtp_ext.reference.skinny_linear import PANEL, from_panels

# Logits that are worked on at a time, or weights in another dtype, of which a gradient or a GPU makes a copy: they stay
# in the cache until they are read again. A chunk of them costs no more than its share of the whole product.
CHUNK_BYTES = 4 << 20
_TILES = torch.cpu._is_amx_tile_supported()
_FEW_BRANCHES = 16  # with which reading the unembedding is what a product costs, tiles or not
_GRAIN = 256  # tokens; a multiple of PANEL


def logits_dtype(hidden: Tensor, unembedding: Tensor, packed: bool) -> torch.dtype:
    """The dtype in which the product of the two gives logits."""
    slow = hidden.dtype == torch.float16 and hidden.device.type == "cpu"
    return torch.float32 if packed or hidden.dtype != unembedding.dtype or slow else hidden.dtype


class VocabHead:
    """The head of a model: an unembedding [vocab, in], or the panels of one with `out_features` outputs.

    Attributes:
        vocab: how many tokens.
        dtype: of the logits.
    """

    def __init__(
        self, hidden: Tensor, unembedding: Tensor, out_features: int | None, bias: Tensor | None, softcap: float | None
    ) -> None:
        self.packed = out_features is not None
        self.vocab = unembedding.shape[0] if out_features is None else out_features
        self.in_features = hidden.shape[-1]
        self.dtype = logits_dtype(hidden, unembedding, self.packed)
        self.bias = bias
        self.softcap = softcap
        self._unembedding = unembedding

    def chunk_width(self, branches: int, most_bytes: int = CHUNK_BYTES) -> int:
        """How many tokens to take at a time for so many branches."""
        token_bytes = branches * self.dtype.itemsize
        if not self.packed and self._unembedding.dtype != self.dtype:
            token_bytes = max(token_bytes, self.in_features * self.dtype.itemsize)
        return max(_GRAIN, most_bytes // max(token_bytes, 1) // _GRAIN * _GRAIN)

    def weight(self, begin: int, end: int) -> Tensor:
        """[end - begin, in] in the dtype of the logits; `begin` is a multiple of 256."""
        if not self.packed:
            return self._unembedding[begin:end].to(self.dtype)
        return from_panels(self._panels(begin, end), self.in_features, end - begin).to(self.dtype)

    def write_logits(self, hidden: Tensor, begin: int, end: int, out: Tensor) -> None:
        """out [m, end - begin] = the logits of tokens `begin`, a multiple of 256, to `end` for hidden [m, in]."""
        bias = None if self.bias is None else self.bias[begin:end]
        tiles = self.dtype == torch.bfloat16 and _TILES and hidden.shape[0] > _FEW_BRANCHES
        if self.dtype != torch.float16 and not tiles:
            hidden = hidden.float() if hidden.dtype == torch.float16 else hidden
            weight = self._panels(begin, end) if self.packed else self._unembedding[begin:end]
            bias = None if bias is None else bias.float()
            linear_into_(out, hidden, weight, bias, end - begin if self.packed else None)
        elif bias is None:
            torch.mm(hidden, self.weight(begin, end).T, out=out)
        else:
            torch.addmm(bias.to(self.dtype), hidden, self.weight(begin, end).T, out=out)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)

    def _panels(self, begin: int, end: int) -> Tensor:
        return self._unembedding[begin // PANEL : -(-end // PANEL)]
