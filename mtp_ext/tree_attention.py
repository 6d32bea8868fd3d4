"""Attention of a tree of candidate tokens over a KV cache."""

from typing import Literal, overload

from torch import Tensor

from mtp_ext import ops


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    *,
    node_counts: Tensor | None = ...,
    starts: Tensor | None = ...,
    page_table: Tensor | None = ...,
    scale: float | None = ...,
    softcap: float = ...,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    *,
    node_counts: Tensor | None = ...,
    starts: Tensor | None = ...,
    page_table: Tensor | None = ...,
    scale: float | None = ...,
    softcap: float = ...,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    *,
    node_counts: Tensor | None = ...,
    starts: Tensor | None = ...,
    page_table: Tensor | None = ...,
    scale: float | None = ...,
    softcap: float = ...,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor | None,
    prefix_lengths: Tensor,
    *,
    node_counts: Tensor | None = None,
    starts: Tensor | None = None,
    page_table: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of every node over the prefix and over its own ancestors, all nodes of all requests in one call.

    Logical row `prefix_lengths[b] + i` of the cache holds node i (`append_` writes it); the rows before it are the
    prefix, which every node sees. The position of a node is the prefix length plus its depth. A node that sees nothing
    gives zeros and an LSE of -inf. Siblings cost their own diagonal only: blocks of the tree that nobody sees are
    skipped. Arithmetic is float32 (bfloat16 products where the CPU has them). Has no gradient.

    Args:
        query: [batch, nodes, heads, head_dim]; float32, bfloat16 or float16, contiguous in the last dimension.
        key, value: [batch, capacity, kv_heads, head_dim] in the query's dtype; value may have another head_dim. With
            `page_table`, [page, page_size, kv_heads, head_dim]. Both head_dims from 16 to 256; heads is a multiple of
            kv_heads, and query head h attends through KV head h // (heads / kv_heads).
        ancestors: int64 [batch, nodes, ceil(nodes / 64)], as `TokenTree.ancestors`: bit j of row i is set when node i
            sees node j, itself included; a row of zeros is padding. None: a causal chain.
        prefix_lengths: int64 [batch].
        node_counts: int64 [batch], where requests have fewer nodes; the others are padding.
        starts: int64 [batch], first visible row, where prompts are padded on the left.
        page_table: int64 [batch, pages]; logical row r is row r % page_size of page page_table[b, r // page_size].
        scale: multiplies the scores; default head_dim ** -0.5.
        softcap: if positive, scores become softcap * tanh(scores / softcap).
        window: a node sees positions less than `window` before its own.
        sinks: float32 [heads], a logit a head that takes part in the normalizer (and in the LSE) with a value of zero.
        return_lse: also return the log-sum-exp of each row's scores.

    Returns:
        out [batch, nodes, heads, value_dim] in the query's dtype, and with `return_lse` lse float32
        [batch, nodes, heads] in nats.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device; on a CPU also a length, page or bit out of range.
    """
    out, lse = ops.tree_attention(
        query,
        key,
        value,
        ancestors,
        prefix_lengths,
        node_counts,
        starts,
        page_table,
        scale,
        softcap,
        window,
        sinks,
    )
    return (out, lse) if return_lse else out


def merge_states(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint sets of keys, from the attention over each.

    Args:
        out_a, out_b: [batch, nodes, heads, value_dim], float32, bfloat16 or float16.
        lse_a, lse_b: float32 [batch, nodes, heads], nats; -inf where nothing was seen. Sinks belong to one of the two.
            +inf, of an infinite score, makes the row NaN and its LSE +inf.

    Returns:
        out in the dtype of `out_a`, and lse.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device.
    """
    out, lse = ops.merge_states(out_a, lse_a, out_b, lse_b)
    return out, lse
