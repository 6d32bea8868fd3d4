"""Rotary position embeddings from a table:

    rotate(x)[i] = x[i] cos[p, i] + x[(i + d/2) mod d] sin[p, i]        the first half of sin negated

which is q cos + rotate_half(q) sin of arXiv 2104.09864 as transformers writes it. cos and sin are the model's own, so
that every scaling of the frequencies is right.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

_BLOCK = 1024  # positions computed at a time: what is in the table must not depend on when it was asked for


class Rotation(NamedTuple):
    """cos and sin of a pass's nodes, float32 [batch, nodes, 1, head_dim] each."""

    cos: Tensor
    sin: Tensor

    def __call__(self, heads: Tensor) -> Tensor:
        """float32 [batch, nodes, heads, head_dim], rotated."""
        return torch.addcmul(heads * self.cos, heads.roll(heads.shape[-1] // 2, -1), self.sin)


class RopeTable:
    """cos and sin of each position, computed as far as caches reach.

    Args:
        rotary_emb: the model's own, called as `rotary_emb(x, position_ids)`.
        head_dim: numbers of a head, all of which it rotates.
    """

    def __init__(self, rotary_emb: nn.Module, head_dim: int) -> None:
        self._rotary_emb = rotary_emb
        self._head_dim = head_dim
        self._rows = torch.empty(0, 2, head_dim)

    def __call__(self, positions: Tensor, capacity: int) -> Rotation:
        """The rotation of positions, int64 [batch, nodes], each below `capacity`."""
        if self._rows.shape[0] < capacity or self._rows.device != positions.device:
            blocks = [self._block(first, positions.device) for first in range(0, capacity, _BLOCK)]
            self._rows = torch.cat(blocks)
        cos, sin = self._rows[positions].unsqueeze(2).unbind(-2)
        return Rotation(cos, sin)

    def _block(self, first: int, device: torch.device) -> Tensor:
        position_ids = torch.arange(first, first + _BLOCK, device=device)[None]
        cos, sin = self._rotary_emb(torch.empty(0, dtype=torch.float32, device=device), position_ids)
        half = self._head_dim // 2
        return torch.stack([cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)], 1)
