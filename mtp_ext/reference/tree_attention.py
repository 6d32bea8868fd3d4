"""Attention of a tree of nodes over a shared prefix and over their own ancestors."""

import torch
from torch import Tensor

from mtp_ext.reference.numbers import compute


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    node_counts: Tensor | None = None,
    starts: Tensor | None = None,
    page_table: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """out [batch, nodes, heads, value_dim] in the query's dtype, lse [batch, nodes, heads] in nats."""
    batch, nodes, heads, head_dim = query.shape
    scale = head_dim**-0.5 if scale is None else scale
    out = query.new_empty(batch, nodes, heads, value.shape[-1])
    lse = compute(query).new_empty(batch, nodes, heads)
    for b in range(batch):
        prefix = int(prefix_lengths[b])
        count = nodes if node_counts is None else int(node_counts[b])
        start = 0 if starts is None else int(starts[b])
        keys = _logical_rows(key, page_table, b, prefix + count).repeat_interleave(heads // key.shape[2], 1)
        values = _logical_rows(value, page_table, b, prefix + count).repeat_interleave(heads // key.shape[2], 1)
        sees = visible(None if ancestors is None else ancestors[b], nodes, count, prefix, start, window)
        sees = sees.to(query.device)
        scores = torch.einsum("nhd,rhd->nhr", compute(query[b]), compute(keys)) * scale
        if softcap > 0:
            scores = softcap * (scores / softcap).tanh()
        scores = scores.masked_fill(~sees[:, None], float("-inf"))
        lse[b] = scores.logsumexp(-1)
        if sinks is not None:  # a logit with a value of zero, for rows that see anything
            lse[b] = torch.logaddexp(lse[b], compute(sinks).to(lse.dtype)).where(sees.any(-1, True), float("-inf"))
        weights = (scores - lse[b, ..., None].masked_fill(lse[b, ..., None] == float("-inf"), 0.0)).exp()
        weights = weights.masked_fill(~sees[:, None], 0.0)
        out[b] = torch.einsum("nhr,rhd->nhd", weights, compute(values).masked_fill(~sees.any(0)[:, None, None], 0.0))
    return out, lse


def visible(ancestors: Tensor | None, nodes: int, count: int, prefix: int, start: int, window: int | None) -> Tensor:
    """bool [nodes, prefix + count]: which logical rows of the cache each node of one request sees."""
    if ancestors is None:
        sees_node = torch.ones(nodes, nodes, dtype=torch.bool).tril()
    else:
        node = torch.arange(nodes)
        sees_node = (ancestors.cpu()[:, node // 64] >> (node % 64)) & 1 == 1
    real = (torch.arange(nodes) < count) & sees_node.any(-1)
    depth = sees_node.sum(-1) - 1
    position = torch.cat([torch.arange(prefix), prefix + depth[:count]])
    sees = torch.cat([torch.ones(nodes, prefix, dtype=torch.bool), sees_node[:, :count]], dim=1)
    sees = sees & (torch.arange(prefix + count) >= start)
    distance = (prefix + depth)[:, None] - position
    if window is not None:
        sees = sees & (distance >= 0) & (distance < window)
    return sees & real[:, None]


def _logical_rows(cache: Tensor, page_table: Tensor | None, request: int, rows: int) -> Tensor:
    """[rows, kv_heads, dim]: the first rows of a request, through its pages where there is a page table."""
    if page_table is None:
        return cache[request, :rows]
    row = torch.arange(rows, device=cache.device)
    page_size = cache.shape[1]
    return cache[page_table[request, row // page_size], row % page_size]


def merge_states(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Joins attention over two disjoint sets of keys."""
    lse = torch.logaddexp(compute(lse_a), compute(lse_b))
    finite = lse.masked_fill(lse == float("-inf"), 0.0)
    out = compute(out_a) * (lse_a - finite).exp()[..., None] + compute(out_b) * (lse_b - finite).exp()[..., None]
    return out.to(out_a.dtype), lse


def append_(
    key: Tensor,
    value: Tensor,
    new_key: Tensor,
    new_value: Tensor,
    prefix_lengths: Tensor,
    page_table: Tensor | None = None,
    node_counts: Tensor | None = None,
) -> None:
    """Writes the nodes' keys and values into their logical rows, in place."""
    batch, nodes = new_key.shape[:2]
    for b in range(batch):
        count = nodes if node_counts is None else int(node_counts[b])
        row = int(prefix_lengths[b]) + torch.arange(count, device=key.device)
        if page_table is None:
            key[b, row], value[b, row] = new_key[b, :count], new_value[b, :count]
        else:
            page, place = page_table[b, row // key.shape[1]], row % key.shape[1]
            key[page, place], value[page, place] = new_key[b, :count], new_value[b, :count]
