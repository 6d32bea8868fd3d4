"""Contract of `tree_attention`."""

import math
from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.cache_checks import check_cache, check_lengths
from mtp_ext.ops.library import define, define_no_gradient

_OP = "tree_attention"
_DTYPES = checks.LOGIT_DTYPES


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    node_counts: Tensor | None,
    starts: Tensor | None,
    page_table: Tensor | None,
    scale: float | None,
    softcap: float,
    window: int | None,
    sinks: Tensor | None,
) -> None:
    shape: list[checks.Dimension] = [("batch", None), ("nodes", None), ("heads", None), ("head_dim", None)]
    checks.check_tensor(_OP, "query", query, shape, _DTYPES)
    batch, nodes, heads, head_dim = query.shape
    capacity, kv_heads, key_dim = check_cache(_OP, key, value, batch, query, page_table)
    if key_dim != head_dim:
        raise ValueError(f"{_OP}: key must have the query's head_dim={head_dim}, got {key_dim}")
    for name, dim in (("head_dim", head_dim), ("value_dim", value.shape[-1])):
        checks.check_range(_OP, name, dim, 16, 256)
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{_OP}: heads must be a multiple of kv_heads, got {heads} and {kv_heads}")
    check_lengths(_OP, prefix_lengths, node_counts, batch, nodes, capacity, query)
    if ancestors is not None:
        words = (nodes + 63) // 64
        shape = [("batch", batch), ("nodes", nodes), ("words", words)]
        checks.check_tensor(_OP, "ancestors", ancestors, shape, [torch.int64], query)
        if checks.has_values(ancestors) and nodes % 64:
            beyond = (ancestors[..., -1] >> (nodes % 64)) != 0
            if beyond.any():
                b, i = beyond.nonzero()[0].tolist()
                raise ValueError(
                    f"{_OP}: ancestors must have no bits beyond the {nodes} nodes, got some in ancestors[{b}, {i}]"
                )
    if starts is not None:
        checks.check_tensor(_OP, "starts", starts, [("batch", batch)], [torch.int64], query)
        if checks.has_values(starts) and (starts < 0).any():
            b = int((starts < 0).nonzero()[0])
            raise ValueError(f"{_OP}: starts must be at least 0, got starts[{b}]={int(starts[b])}")
    if scale is not None:
        checks.check_number(_OP, "scale", scale)
        if not math.isfinite(scale):
            raise ValueError(f"{_OP}: scale must be a finite number, got {scale:g}")
    checks.check_number(_OP, "softcap", softcap)
    if softcap == math.inf:
        raise ValueError(f"{_OP}: softcap must be a finite number, got {softcap:g}")
    if not softcap >= 0:
        raise ValueError(f"{_OP}: softcap must be at least 0, got {softcap:g}")
    if window is not None:
        _check_window(window)
    if sinks is not None:
        checks.check_tensor(_OP, "sinks", sinks, [("heads", heads)], [torch.float32], query)


def _check_window(window: int) -> None:
    if not isinstance(window, int | torch.SymInt) or isinstance(window, bool):
        raise TypeError(f"{_OP}: window must be an integer, got {type(window).__name__}")
    if window < 1:
        raise ValueError(f"{_OP}: window must be at least 1, got {window}")


def _fake(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, nodes, heads, _dim = query.shape
    out = query.new_empty(batch, nodes, heads, value.shape[-1])
    return out, query.new_empty(batch, nodes, heads, dtype=torch.float32)


tree_attention = define(
    "tree_attention(Tensor query, Tensor key, Tensor value, Tensor? ancestors, Tensor prefix_lengths, "
    "Tensor? node_counts, Tensor? starts, Tensor? page_table, float? scale, float softcap, int? window, "
    "Tensor? sinks) -> (Tensor, Tensor)",
    check=_check,
    reference=reference.tree_attention,
    fake=_fake,
)

define_no_gradient("tree_attention")
