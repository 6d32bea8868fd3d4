"""Drafts from sequential MTP heads: a level of the tree is what a head expects behind each leaf of the one before."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext.branches import select_branches
from mtp_ext.decoding.draft_head import DraftHead
from mtp_ext.decoding.drafters import grow_tree
from mtp_ext.decoding.growing_tree import GrowingTree
from mtp_ext.heads import MTPHeads
from mtp_ext.marginalize import joint_topk
from mtp_ext.tree import TokenTree


class SequentialSession:
    """What the first head follows of each text, and the token that comes next.

    Args:
        heads: sequential ones.
        head: for drafts.
        device: of the target.
        width: nodes of a level.
        roots: the last token of each prompt.
    """

    def __init__(
        self,
        heads: MTPHeads,
        head: DraftHead,
        device: torch.device,
        width: int,
        roots: list[int],
    ) -> None:
        self.layers: Sequence[int] = heads.config.layers
        self._heads, self._head, self._device, self._width, self._roots = heads, head, device, width, roots
        self._hidden = torch.empty(0)  # [batch, 1, hidden]

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        roots = torch.tensor(self._roots, device=self._device)[:, None]
        tree = GrowingTree(roots, torch.tensor(depths, device=roots.device))
        if nodes > 1:
            tree = self._grow(tree, min(len(self._heads.heads), max(depths)))
        return grow_tree(tree.best(nodes), self._device)

    def _grow(self, tree: GrowingTree, levels: int) -> GrowingTree:
        hidden, tokens = self._hidden, tree.tokens  # of the leaves: [batch, leaves, hidden] and [batch, leaves]
        for level in range(levels):
            hidden = self._follow(level, hidden, tokens)
            logits = self._head.logits(hidden)
            if level == 0:
                best = select_branches(logits[:, 0], top_p=1.0, top_k=self._width)
                log_probs, leaves, tokens = best.log_probs, torch.zeros_like(best.tokens), best.tokens
            else:
                log_probs, leaves, tokens = joint_topk(logits, tree.leaf_log_probs, k=self._width)
            tokens = self._head.tokens_of(tokens)
            leaves, first = leaves.clamp(min=0), tree.first_leaf
            tree = tree.with_level(tokens, first + leaves, log_probs)
            hidden = hidden.gather(1, leaves[..., None].expand(-1, -1, hidden.shape[2]))
            tokens = tokens.clamp(min=0)
        return tree

    def _follow(self, level: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self._heads.follow(level, hidden, tokens)

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        last = torch.tensor([kept[-1] for kept in rows], device=self._device)
        request = torch.arange(len(rows), device=last.device)
        dtype = self._heads.unembedding.dtype
        self._hidden = self._heads.first_hidden([layer[request, last][:, None].to(dtype) for layer in layer_outputs])

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        for request, tokens in enumerate(accepted):
            if tokens:
                self._roots[request] = tokens[-1]

    def select(self, requests: Sequence[int]) -> None:
        self._roots = [self._roots[request] for request in requests]
        self._hidden = self._hidden[list(requests)]
