"""The accepted nodes' rows, moved together behind the prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor


def commit_(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    prefix_lengths: Tensor,
    nodes: Tensor,
    lengths: Tensor,
    page_table: Tensor | None = None,
) -> Tensor:
    """The new lengths [batch]; logical row prefix + nodes[j] goes to prefix + j, in every layer, in place."""
    for b, (prefix, length) in enumerate(zip(prefix_lengths.tolist(), lengths.tolist(), strict=True)):
        source, target = prefix + nodes[b, :length], prefix + torch.arange(length, device=nodes.device)
        for cache in (*keys, *values):
            cache[_place(cache, page_table, b, target)] = cache[_place(cache, page_table, b, source)]
    return prefix_lengths + lengths


def _place(cache: Tensor, page_table: Tensor | None, request: int, row: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of logical rows of a request: its own number or their pages, and the row in there."""
    if page_table is None:
        return torch.full_like(row, request), row
    return page_table[request, row // cache.shape[1]], row % cache.shape[1]
