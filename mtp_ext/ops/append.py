"""Contract of `append_`: the nodes' keys and values, written into the cache in place."""

from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.cache_checks import check_cache, check_lengths
from mtp_ext.ops.library import define, refuse_gradient

_OP = "append_"


def _check(
    key: Tensor,
    value: Tensor,
    new_key: Tensor,
    new_value: Tensor,
    prefix_lengths: Tensor,
    page_table: Tensor | None,
    node_counts: Tensor | None,
) -> None:
    shape: list[checks.Dimension] = [("batch", None), ("nodes", None), ("kv_heads", None), ("head_dim", None)]
    checks.check_tensor(_OP, "new_key", new_key, shape, checks.LOGIT_DTYPES)
    batch, nodes, kv_heads, head_dim = new_key.shape
    capacity, cache_heads, cache_dim = check_cache(_OP, key, value, batch, new_key, page_table)
    if (cache_heads, cache_dim) != (kv_heads, head_dim):
        raise ValueError(
            f"{_OP}: new_key must have the cache's kv_heads={cache_heads} and head_dim={cache_dim}, "
            f"got {kv_heads} and {head_dim}"
        )
    shape = [("batch", batch), ("nodes", nodes), ("kv_heads", kv_heads), ("value_dim", value.shape[-1])]
    checks.check_tensor(_OP, "new_value", new_value, shape, [new_key.dtype], new_key)
    check_lengths(_OP, prefix_lengths, node_counts, batch, nodes, capacity, new_key)


def _fake(*_: Tensor | None) -> None:
    return None


append_ = define(
    "append_(Tensor(a!) key, Tensor(b!) value, Tensor new_key, Tensor new_value, Tensor prefix_lengths, "
    "Tensor? page_table, Tensor? node_counts) -> ()",
    check=_check,
    reference=reference.append_,
    fake=_fake,
)

append_ = refuse_gradient("append_", append_)
