"""The KV cache and what is written to it."""

from torch import Tensor

from mtp_ext import ops


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
    """
    ops.append_(key, value, new_key, new_value, prefix_lengths, page_table, node_counts)
