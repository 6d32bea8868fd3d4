"""Trees and their caches as `tree_attention` takes them, and as PyTorch's own attention does."""

from dataclasses import dataclass

import torch
from cases import Case
from round_robin import Call
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from mtp_ext.reference.tree_attention import visible
from mtp_ext.testing_trees import TreeCase, random_parents, tree_case

REACH = 8  # nodes between a child and its parent, at most: trees of several paths, some of them long


def random_trees(case: Case) -> TreeCase:
    """Another tree for each request of a case [batch, prefix, nodes, heads, kv_heads, head_dim]."""
    batch, _, nodes, *_ = case.shape
    return _of(case, [random_parents(nodes, REACH, seed=request) for request in range(batch)])


def siblings(case: Case) -> TreeCase:
    """Branches of a marginalization: each node sees the prefix and itself."""
    batch, _, nodes, *_ = case.shape
    return _of(case, [[-1] * nodes] * batch)


def _of(case: Case, parents: list[list[int]]) -> TreeCase:
    batch, prefix, _, heads, kv_heads, head_dim = case.shape
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return tree_case(parents, [prefix] * batch, **sizes, dtype=case.torch_dtype)


@dataclass(frozen=True)
class DenseAttention:
    """The same for PyTorch: heads before rows, as its caches have them, and a mask of all rows, made beforehand.

    Attributes:
        query: [batch, heads, nodes, head_dim].
        key, value: [batch, kv_heads, rows, head_dim].
        mask: bool [batch, 1, nodes, rows].
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor

    @staticmethod
    def of(tree: TreeCase) -> "DenseAttention":
        """Of trees with as many nodes and rows in each request."""
        assert tree.ancestors is not None
        nodes, prefix = tree.nodes, int(tree.prefix_lengths[0])
        mask = torch.stack([visible(words, nodes, nodes, prefix, 0, None) for words in tree.ancestors])

        def heads_first(rows: Tensor) -> Tensor:
            return rows[:, : prefix + nodes].transpose(1, 2).contiguous()

        query, key, value = map(heads_first, (tree.query, tree.key, tree.value))
        return DenseAttention(query, key, value, mask[:, None])

    def sdpa(self) -> Tensor:
        """[batch, nodes, heads, head_dim]"""
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(self.query, self.key, self.value, attn_mask=self.mask, enable_gqa=True).transpose(1, 2)

    def flex(self) -> Call:
        """flex_attention with the blocks of this mask; compiled when it is first called."""
        batch, _, nodes, rows = self.mask.shape
        mask = self.mask[:, 0]

        def sees(b: Tensor, h: Tensor, node: Tensor, row: Tensor) -> Tensor:
            return mask[b, node, row]

        blocks = create_block_mask(sees, batch, None, nodes, rows, device="cpu")
        attention = torch.compile(flex_attention, dynamic=False)
        return lambda: attention(self.query, self.key, self.value, block_mask=blocks, enable_gqa=True).transpose(1, 2)
