"""Verification of drafts and the move of the accepted rows, as the ops take them and as a loop in PyTorch has them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import Case
from torch import Tensor

import mtp_ext
from mtp_ext.testing import peaked_logits
from mtp_ext.testing_trees import random_parents
from mtp_ext.verify import Accepted

REACH = 4  # nodes between a child and its parent, at most
PATH = 5  # nodes that are accepted, of trees that have so many levels


@dataclass(frozen=True)
class Verification:
    """Trees of a case [batch, nodes, vocab], most of whose first paths the target follows.

    Attributes:
        tree: every first child holds the target's best token, PATH nodes deep.
        logits: [batch, nodes, vocab].
        uniforms: float32 [batch, nodes + 1].
    """

    tree: mtp_ext.TokenTree
    logits: Tensor
    uniforms: Tensor

    @staticmethod
    def of(case: Case) -> "Verification":
        batch, nodes, vocab = case.shape
        logits = peaked_logits(batch, nodes, vocab, seed=0, dtype=case.torch_dtype)
        parents = torch.tensor([random_parents(nodes, REACH, seed=request) for request in range(batch)])
        tokens = torch.randint(vocab, (batch, nodes), generator=torch.Generator().manual_seed(0))
        best = logits.argmax(-1)
        for b in range(batch):
            node = 0
            for _ in range(PATH - 1):
                children = (parents[b] == node).nonzero().flatten().tolist()
                if not children:
                    break
                tokens[b, children[0]] = best[b, node]
                node = children[0]
        uniforms = torch.rand(batch, nodes + 1, generator=torch.Generator().manual_seed(0)) * 0.2
        return Verification(mtp_ext.TokenTree(tokens, parents), logits, uniforms)

    def rows_read(self, accepted: Accepted) -> Tensor:
        """[nodes on the paths, vocab]"""
        request, place = (accepted.nodes >= 0).nonzero().unbind(1)
        return self.logits[request, accepted.nodes[request, place]]

    def eager_greedy(self) -> Accepted:
        """The argmax of every node, and a walk."""
        best = self.logits.argmax(-1).tolist()
        tokens, parents = self.tree.tokens.tolist(), self.tree.parents.tolist()
        paths, following = [], []
        for b, row in enumerate(best):
            path = [0]
            while True:
                below = [
                    node
                    for node in range(len(row))
                    if parents[b][node] == path[-1] and tokens[b][node] == row[path[-1]]
                ]
                if not below:
                    break
                path.append(below[0])
            paths.append(path)
            following.append(row[path[-1]])
        return self._accepted(paths, following)

    def eager_sampling(self, top_p: float) -> Accepted:
        """Every node's nucleus by softmax, sort and cumulative sum; then a walk."""
        probs, order = self.logits.float().softmax(-1).sort(descending=True)
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
        probs = torch.zeros_like(probs).scatter_(-1, order, probs)
        probs /= probs.sum(-1, keepdim=True)
        return self._walk(lambda b, node: probs[b, node].clone())

    def eager_sampling_of_visited(self, top_p: float) -> Accepted:
        """The same, of the nodes on the path alone."""

        def nucleus(b: int, node: int) -> Tensor:
            probs, order = self.logits[b, node].float().softmax(-1).sort(descending=True)
            probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
            probs = torch.zeros_like(probs).scatter_(-1, order, probs)
            return probs / probs.sum()

        return self._walk(nucleus)

    def _walk(self, target: Callable[[int, int], Tensor]) -> Accepted:
        """Siblings one after the other, by the target's probability alone."""
        tokens, parents, coins = self.tree.tokens.tolist(), self.tree.parents.tolist(), self.uniforms.tolist()
        paths, following = [], []
        for b in range(len(tokens)):
            path, node = [0], 0
            while node >= 0:
                p, node = target(b, path[-1]), -1
                for child in (i for i, parent in enumerate(parents[b]) if parent == path[-1]):
                    if coins[b][child] < p[tokens[b][child]]:
                        path.append(child)
                        node = child
                        break
                    p[tokens[b][child]] = 0.0
                    p /= p.sum()
            paths.append(path)
            mass = p.double().cumsum(-1)
            following.append(int((mass > coins[b][-1] * mass[-1]).int().argmax()))
        return self._accepted(paths, following)

    def _accepted(self, paths: list[list[int]], following: list[int]) -> Accepted:
        width = self.tree.tokens.shape[1]
        nodes = torch.tensor([path + [-1] * (width - len(path)) for path in paths])
        return Accepted(nodes, torch.tensor([len(path) for path in paths]), torch.tensor(following))


@dataclass(frozen=True)
class Commit:
    """A cache of a case [layers, batch, prefix, path, kv_heads, head_dim]: every other node is accepted."""

    keys: list[Tensor]
    values: list[Tensor]
    prefix_lengths: Tensor
    accepted: Accepted

    @staticmethod
    def of(case: Case) -> "Commit":
        layers, batch, prefix, path, kv_heads, head_dim = case.shape
        shape = (batch, prefix + 2 * path, kv_heads, head_dim)
        keys, values = ([torch.randn(shape).to(case.torch_dtype) for _ in range(layers)] for _ in range(2))
        nodes = torch.full((batch, 2 * path), -1)
        nodes[:, :path] = torch.arange(path) * 2
        lengths = torch.full((batch,), path)
        return Commit(keys, values, torch.full((batch,), prefix), Accepted(nodes, lengths, lengths))

    def ours(self) -> Tensor:
        return mtp_ext.commit_(self.keys, self.values, self.prefix_lengths, self.accepted)

    def nothing(self) -> Tensor:
        """The same call where only roots are accepted, which lie where they must."""
        roots = torch.ones_like(self.accepted.lengths)
        return mtp_ext.commit_(self.keys, self.values, self.prefix_lengths, self.accepted._replace(lengths=roots))

    def moved(self) -> Tensor:
        """Numbers like those that are moved, in one piece."""
        rows = int(self.accepted.lengths.sum()) - len(self.accepted.lengths)
        _, _, kv_heads, head_dim = self.keys[0].shape
        return torch.randn(2 * len(self.keys), rows, kv_heads, head_dim).to(self.keys[0].dtype)

    def eager(self) -> Tensor:
        """A gather and a slice, a layer and a request at a time."""
        new_lengths = self.prefix_lengths + self.accepted.lengths
        for b, (prefix, end) in enumerate(zip(self.prefix_lengths.tolist(), new_lengths.tolist(), strict=True)):
            source = prefix + self.accepted.nodes[b, : end - prefix]
            for cache in (*self.keys, *self.values):
                cache[b, prefix:end] = cache[b, source]
        return new_lengths
