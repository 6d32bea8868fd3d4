"""The KV cache and what is written to it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext import ops
from mtp_ext.ops import checks
from mtp_ext.verify import Accepted


def append_(
    key: Tensor,
    value: Tensor,
    new_key: Tensor,
    new_value: Tensor,
    prefix_lengths: Tensor,
    *,
    page_table: Tensor | None = None,
    node_counts: Tensor | None = None,
) -> None:
    """Writes the nodes' keys and values into their rows of the cache, in place.

    Node i of request b goes to logical row `prefix_lengths[b] + i`. Two requests must not own the same page.

    Args:
        key, value: the cache, as in `tree_attention`: [batch, capacity, kv_heads, head_dim], or pages.
        new_key, new_value: [batch, nodes, kv_heads, head_dim] in the cache's dtype.
        prefix_lengths: int64 [batch].
        page_table: int64 [batch, pages], where the cache is paged.
        node_counts: int64 [batch], where requests have fewer nodes; the others are not written.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device; on a CPU also a row or page out of range.
        RuntimeError: one of the tensors requires a gradient, and gradients are being recorded.
    """
    ops.append_(key, value, new_key, new_value, prefix_lengths, page_table, node_counts)


def commit_(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    prefix_lengths: Tensor,
    accepted: Accepted,
    *,
    page_table: Tensor | None = None,
) -> Tensor:
    """Moves the rows of the accepted nodes together behind the prefix, in every layer, in place.

    Logical row `prefix_lengths[b] + accepted.nodes[b, j]` goes to row `prefix_lengths[b] + j`. The rows behind them
    hold nothing that counts any more. Two requests must not own the same page, nor two layers the same storage.

    Args:
        keys, values: the cache, one tensor a layer, as in `tree_attention`: [batch, capacity, kv_heads, head_dim], or
            pages; layers may differ in all but the batch or the pages.
        prefix_lengths: int64 [batch].
        accepted: from `verify_greedy` or `verify_sampling`.
        page_table: int64 [batch, pages], where the cache is paged.

    Returns:
        The new lengths, int64 [batch]: `prefix_lengths + accepted.lengths`.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device; on a CPU also a row or page out of range, or nodes that
            do not ascend from the root.
        RuntimeError: a tensor of the cache requires a gradient, and gradients are being recorded.
    """
    nodes, lengths, _ = accepted
    new_lengths: Tensor = ops.commit_(list(keys), list(values), prefix_lengths, nodes, lengths, page_table)
    return new_lengths


class KVCache:
    """Keys and values of all layers, in storage that is allocated once.

    A pass appends the rows of its nodes behind those of the prefix, in every layer, and attention reads all of them
    where they lie. Then `advance` keeps what was appended, or nothing does and the next pass writes over it.

    Args:
        batch, capacity: requests, and rows for each of them.
        device: of everything in the cache.

    Attributes:
        keys, values: one tensor a layer, [batch, capacity, kv_heads, head_dim], contiguous.
        lengths: int64 [batch], the rows that count; a pass appends behind them.
        starts: int64 [batch], the first row that is no padding, where prompts are padded on the left.

    Raises:
        ValueError, TypeError: a size that is no positive integer.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    starts: Tensor

    def __init__(self, batch: int, capacity: int, *, device: torch.device | str = "cpu") -> None:
        for name, size in (("batch", batch), ("capacity", capacity)):
            checks.check_range("KVCache", name, size, 1, 2**31 - 1)
        self.batch, self.capacity = batch, capacity
        self.keys, self.values = [], []
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.starts = torch.zeros(batch, dtype=torch.int64, device=device)

    def __repr__(self) -> str:
        layers, device = len(self.keys), str(self.lengths.device)
        return f"KVCache(batch={self.batch}, capacity={self.capacity}, {layers=}, {device=})"

    def add_layer(
        self, kv_heads: int, head_dim: int, value_dim: int | None = None, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Allocates one more layer.

        Args:
            kv_heads, head_dim, value_dim: sizes of a row; values are as wide as keys unless told otherwise.
            dtype: of keys and values.
        """
        device = self.lengths.device
        shape = (self.batch, self.capacity, kv_heads)
        self.keys.append(torch.empty(*shape, head_dim, dtype=dtype, device=device))
        self.values.append(torch.empty(*shape, value_dim or head_dim, dtype=dtype, device=device))

    def append(self, layer: int, new_key: Tensor, new_value: Tensor, node_counts: Tensor | None = None) -> None:
        """Writes one layer's rows of a pass behind `lengths`, which stay as they are: see `append_`."""
        append_(self.keys[layer], self.values[layer], new_key, new_value, self.lengths, node_counts=node_counts)

    def advance(self, counts: Tensor | int) -> None:
        """Keeps the first `counts` appended rows of each request: int64 [batch], or one number for all.

        Raises:
            ValueError, TypeError: not such a tensor; on a CPU also more rows than there are.
        """
        self._set_lengths("advance", "counts", counts, self.lengths, self.capacity)

    def crop(self, lengths: Tensor | int) -> None:
        """Forgets the rows from `lengths` on: int64 [batch], or one number for all.

        Raises:
            ValueError, TypeError: not such a tensor; on a CPU also more rows than a request has.
        """
        self._set_lengths("crop", "lengths", lengths, torch.zeros_like(self.lengths), self.lengths)

    def _set_lengths(self, name: str, argument: str, rows: Tensor | int, before: Tensor, limit: Tensor | int) -> None:
        op = f"KVCache.{name}"
        if isinstance(rows, int):
            rows = torch.full_like(self.lengths, rows)
        checks.check_tensor(op, argument, rows, [("batch", self.batch)], [torch.int64], self.lengths)
        lengths = before + rows
        if checks.has_values(lengths) and (wrong := (rows < 0) | (lengths > limit)).any():
            b = int(wrong.nonzero()[0])
            most = int((torch.as_tensor(limit) - before)[b])
            raise ValueError(f"{op}: {argument} must be from 0 to {most}, got {argument}[{b}]={int(rows[b])}")
        self.lengths = lengths  # never in place: `request` shares nothing but rows

    def request(self, index: int) -> "KVCache":
        """The cache of one request, which shares the rows of this one; its length is its own.

        Raises:
            ValueError, TypeError: no such request.
        """
        checks.check_range("KVCache.request", "index", index, 0, self.batch - 1)
        return self._with_rows(slice(index, index + 1), 1)

    def select(self, indices: Tensor) -> "KVCache":
        """A copy that holds the requests `indices`, int64 [n], in this order; a request may come twice."""
        checks.check_tensor("KVCache.select", "indices", indices, [("n", None)], [torch.int64], self.lengths)
        return self._with_rows(indices, indices.shape[0])

    def _with_rows(self, requests: slice | Tensor, batch: int) -> "KVCache":
        cache = KVCache(batch, self.capacity, device=self.lengths.device)
        cache.keys = [key[requests] for key in self.keys]
        cache.values = [value[requests] for value in self.values]
        cache.lengths, cache.starts = self.lengths[requests], self.starts[requests]
        return cache
