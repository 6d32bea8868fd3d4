"""What the ops on a KV cache check alike: the cache itself, and that every request's rows lie within it."""

import torch
from torch import Tensor

from mtp_ext.ops import checks


def check_cache(
    op: str, key: Tensor, value: Tensor, batch: int, like: Tensor, page_table: Tensor | None
) -> tuple[int, int, int]:
    """Checks a KV cache, contiguous or paged, and returns (capacity, kv_heads, head_dim)."""
    first = ("batch", batch) if page_table is None else ("pages", None)
    second = "capacity" if page_table is None else "page_size"
    checks.check_tensor(
        op, "key", key, [first, (second, None), ("kv_heads", None), ("head_dim", None)], [like.dtype], like
    )
    pages, rows, kv_heads, head_dim = key.shape
    shape = [("pages" if page_table is not None else "batch", pages), (second, rows), ("kv_heads", kv_heads)]
    checks.check_tensor(op, "value", value, [*shape, ("value_dim", None)], [like.dtype], like)
    if page_table is None:
        return rows, kv_heads, head_dim
    checks.check_tensor(op, "page_table", page_table, [("batch", batch), ("pages", None)], [torch.int64], like)
    if checks.has_values(page_table):
        for b, row in enumerate(page_table.tolist()):
            for i, page in enumerate(row):
                if not 0 <= page < pages:
                    raise ValueError(f"{op}: page_table must be from 0 to {pages - 1}, got page_table[{b}, {i}]={page}")
    return page_table.shape[1] * rows, kv_heads, head_dim


def check_lengths(
    op: str,
    prefix_lengths: Tensor,
    node_counts: Tensor | None,
    batch: int,
    nodes: int,
    capacity: int,
    like: Tensor,
) -> None:
    """Checks that every request's prefix and nodes fit into its cache."""
    checks.check_tensor(op, "prefix_lengths", prefix_lengths, [("batch", batch)], [torch.int64], like)
    if node_counts is not None:
        checks.check_tensor(op, "node_counts", node_counts, [("batch", batch)], [torch.int64], like)
    if not checks.has_values(prefix_lengths):
        return
    counts = [nodes] * batch if node_counts is None else node_counts.tolist()
    for b, (prefix, count) in enumerate(zip(prefix_lengths.tolist(), counts, strict=True)):
        if not 0 <= count <= nodes:
            raise ValueError(f"{op}: node_counts must be from 0 to {nodes}, got node_counts[{b}]={count}")
        if prefix < 0:
            raise ValueError(f"{op}: prefix_lengths must be at least 0, got prefix_lengths[{b}]={prefix}")
        if prefix + count > capacity:
            raise ValueError(
                f"{op}: the cache must hold prefix and nodes, got capacity {capacity} for "
                f"prefix_lengths[{b}]={prefix} and {count} nodes"
            )
