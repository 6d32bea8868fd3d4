"""Contract of `commit_`: the accepted nodes' rows, moved together in place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.cache_checks import check_cache
from mtp_ext.ops.library import define, refuse_gradient

_OP = "commit_"


def _check(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    prefix_lengths: Tensor,
    nodes: Tensor,
    lengths: Tensor,
    page_table: Tensor | None,
) -> None:
    if len(keys) != len(values):
        raise ValueError(f"{_OP}: keys and values must be of the same layers, got {len(keys)} and {len(values)}")
    checks.check_tensor(_OP, "nodes", nodes, [("batch", None), ("nodes", None)], [torch.int64])
    batch, width = nodes.shape
    for name, tensor in (("prefix_lengths", prefix_lengths), ("lengths", lengths)):
        checks.check_tensor(_OP, name, tensor, [("batch", batch)], [torch.int64], nodes)
    capacities = []
    for key, value in zip(keys, values, strict=True):
        dtype = key.dtype if isinstance(key, Tensor) else None
        if dtype not in checks.LOGIT_DTYPES:
            shape: list[checks.Dimension] = [
                ("batch", batch),
                ("capacity", None),
                ("kv_heads", None),
                ("head_dim", None),
            ]
            checks.check_tensor(_OP, "key", key, shape, checks.LOGIT_DTYPES, nodes)
        capacities.append(check_cache(_OP, key, value, batch, key, page_table)[0])
        if key.device != nodes.device:
            raise ValueError(f"{_OP}: keys and values must be on {nodes.device}, got {key.device}")
    if checks.has_values(nodes) and checks.has_values(lengths) and checks.has_values(prefix_lengths):
        _check_paths(prefix_lengths, nodes, lengths, min(capacities, default=None), width)


def _check_paths(prefix_lengths: Tensor, nodes: Tensor, lengths: Tensor, capacity: int | None, width: int) -> None:
    for b, (prefix, path, length) in enumerate(
        zip(prefix_lengths.tolist(), nodes.tolist(), lengths.tolist(), strict=True)
    ):
        if not 0 <= length <= width:
            raise ValueError(f"{_OP}: lengths must be from 0 to {width}, got lengths[{b}]={length}")
        if prefix < 0:
            raise ValueError(f"{_OP}: prefix_lengths must be at least 0, got prefix_lengths[{b}]={prefix}")
        for j in range(length):
            least = 0 if j == 0 else path[j - 1] + 1
            most = 0 if j == 0 else width - 1
            if not least <= path[j] <= most:
                raise ValueError(
                    f"{_OP}: nodes must ascend from 0 to at most {width - 1}, got nodes[{b}, {j}]={path[j]}"
                )
        if capacity is not None and length > 0 and prefix + path[length - 1] >= capacity:
            raise ValueError(
                f"{_OP}: the cache must hold prefix and nodes, got capacity {capacity} for "
                f"prefix_lengths[{b}]={prefix} and node {path[length - 1]}"
            )


def _fake(keys: Sequence[Tensor], values: Sequence[Tensor], prefix_lengths: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(prefix_lengths, memory_format=torch.contiguous_format)


commit_ = define(
    "commit_(Tensor(a!)[] keys, Tensor(b!)[] values, Tensor prefix_lengths, Tensor nodes, Tensor lengths, "
    "Tensor? page_table) -> Tensor",
    check=_check,
    reference=reference.commit_,
    fake=_fake,
)

commit_ = refuse_gradient("commit_", commit_)
