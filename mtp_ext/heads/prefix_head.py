"""A sequential head that also looks back at the text, as far as the model has read it, and into its inner layers.

    h0 = z_m + W_0 [z_1; ...; z_m-1]                             what the first head reads as h, of place t
    k[s], v[s] = W_kv [z_1[s]; ...; z_m[s]; e(x[s+1])]           of each place s <= t, for all heads
    a = sum over s <= t of softmax_s(q . k[s] / sqrt(64)) v[s]    q = W_q [h; e(y)]
    h' = SequentialHead(h + W_o a, y)

z_i are outputs of m layers of the model, z_m the last hidden state, and e(y) is the unembedding's row of token y. What
a matrix reads is scaled to a root mean square of one, part by part; q and k are rotated to their places. W_0 and W_o
are zero at first. z_m was made to predict one token: what else the model knows of the text lies in its inner layers and
at earlier places. Prefix attention is Hydra++'s, arXiv 2402.05109; several layers as in EAGLE-3, arXiv 2503.01840.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from mtp_ext.heads.sequential_head import SequentialHead

_HEAD_DIM = 64
_QUERIES = 3  # heads that share a key
_HIDDEN_OF_KEY = 288  # hidden sizes that have a key head: 2 key heads for 576
_BASE = 10_000.0  # of the rotation


@dataclass(frozen=True)
class Prefix:
    """What heads look back at.

    Attributes:
        keys, values: [batch, key heads, places, 64], of the first places of each text.
        last: int64 [batch or 1, queries or 1]: the last place that each query sees, where its text has been read to.
    """

    keys: Tensor
    values: Tensor
    last: Tensor

    @property
    def mask(self) -> Tensor:
        """bool [batch or 1, 1, queries or 1, places]: who sees what."""
        return (torch.arange(self.keys.shape[2], device=self.last.device) <= self.last[..., None])[:, None]


class TextReader(nn.Module):
    """What all heads read of the model's layers."""

    def __init__(self, hidden: int, layers: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.key_heads = key_heads(hidden)
        width = 2 * self.key_heads * _HEAD_DIM
        self.kv = nn.Linear((layers + 1) * hidden, width, bias=False, device=device, dtype=dtype)
        self.inner = nn.Linear((layers - 1) * hidden, hidden, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.inner.weight)

    def first_hidden(self, layers: Sequence[Tensor]) -> Tensor:
        """h0, [..., hidden], of the outputs of the layers, [..., hidden] each."""
        *inner, last = layers
        out: Tensor = last + self.inner(torch.cat([_normed(state) for state in inner], -1))
        return out

    def forward(self, layers: Sequence[Tensor], embedded: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Keys and values, [batch, key heads, places, 64] each.

        Args:
            layers: of each layer [batch, places, hidden].
            embedded: [batch, places, hidden]: the unembedding's rows of the tokens behind these places.
            first: where in the text the first of these places is.
        """
        read = torch.cat([_normed(state) for state in (*layers, embedded)], -1)
        keys, values = self.kv(read).unflatten(-1, (2, self.key_heads, _HEAD_DIM)).transpose(-4, -2).unbind(-3)
        places = torch.arange(first, first + read.shape[-2], device=read.device)
        return rotated(keys, places), values


class PrefixHead(SequentialHead):
    def __init__(self, hidden: int, width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(hidden, width, device=device, dtype=dtype)
        self.heads = _QUERIES * key_heads(hidden)
        self.query = nn.Linear(2 * hidden, self.heads * _HEAD_DIM, bias=False, device=device, dtype=dtype)
        self.out = nn.Linear(self.heads * _HEAD_DIM, hidden, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.out.weight)

    def look_back(self, hidden: Tensor, embedded: Tensor, prefix: Prefix, distance: int) -> Tensor:
        """h + W_o a, [batch, queries, hidden].

        Args:
            hidden: [batch, queries, hidden].
            embedded: [batch, queries, hidden]: the unembedding's rows of the tokens behind them.
            prefix: of the text.
            distance: places from the last one that a query sees to its own.
        """
        read = torch.cat([_normed(hidden), _normed(embedded.to(hidden.dtype))], -1)
        query = self.query(read).unflatten(-1, (self.heads, _HEAD_DIM)).transpose(1, 2)
        query = rotated(query, (prefix.last + distance)[:, None])
        seen = scaled_dot_product_attention(query, prefix.keys, prefix.values, attn_mask=prefix.mask, enable_gqa=True)
        out: Tensor = hidden + self.out(seen.transpose(1, 2).flatten(2))
        return out


def key_heads(hidden: int) -> int:
    """How many keys each place has, for a model of this hidden size."""
    return max(1, hidden // _HIDDEN_OF_KEY)


def rotated(states: Tensor, places: Tensor) -> Tensor:
    """Rotary positions: [..., places, 64], int64 [..., places]; in pairs of a number and that 32 further on."""
    half = states.shape[-1] // 2
    rates = _BASE ** (-torch.arange(half, device=states.device) / half)
    angles = places[..., None] * rates
    cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
    one, other = states.split(half, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def _normed(states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:])
