"""Trees that a drafter grows level by level, each by what it expects behind the leaves of the one before."""

from copy import copy

import torch
from torch import Tensor

from mtp_ext.decoding.drafters import Draft
from mtp_ext.tree import TokenTree


class GrowingTree:
    """A batch of trees, level by level; a node that does not exist has the log-probability -inf.

    Args:
        tokens: int64 [batch, 1], the roots.
        limits: int64 [batch], levels that each request may have.
    """

    def __init__(self, tokens: Tensor, limits: Tensor) -> None:
        self.tokens, self.limits = tokens, limits
        self.parents = torch.full_like(tokens, -1)
        self.log_probs = torch.zeros_like(tokens, dtype=torch.float32)
        self.level, self.first_leaf = 0, 0

    def with_level(self, tokens: Tensor, parents: Tensor, log_probs: Tensor) -> "GrowingTree":
        """Another level of leaves, [batch, width] each; a token of -1 does not exist."""
        grown = copy(self)
        grown.level, grown.first_leaf = self.level + 1, self.tokens.shape[1]
        beyond = (self.limits < grown.level)[:, None]
        grown.tokens = torch.cat([self.tokens, tokens.clamp(min=0)], 1)
        grown.parents = torch.cat([self.parents, parents.clamp(min=0).masked_fill(beyond, -2)], 1)
        missing = beyond | (tokens < 0)
        grown.log_probs = torch.cat([self.log_probs, log_probs.masked_fill(missing, -torch.inf)], 1)
        return grown

    @property
    def leaf_log_probs(self) -> Tensor:
        """float32 [batch, width]."""
        return self.log_probs[:, self.first_leaf :]

    def mass(self) -> float:
        """The probability of all leaves together, of the request where it is highest."""
        return float(self.leaf_log_probs.exp().sum(1).max())

    def as_tree(self) -> TokenTree:
        return TokenTree(self.tokens, self.parents, validate=False)

    def best(self, nodes: int) -> list[Draft]:
        """Of each request the most probable nodes that exist, in descending order."""
        drafts: list[Draft] = []
        for tokens, parents, log_probs in zip(
            self.tokens.tolist(), self.parents.tolist(), self.log_probs.tolist(), strict=True
        ):
            # Stable, and a child is never more probable than its parent but by rounding, which is undone here.
            for node in range(1, len(tokens)):
                log_probs[node] = min(log_probs[node], log_probs[max(parents[node], 0)])
            order = sorted(range(len(tokens)), key=lambda node: -log_probs[node])[:nodes]
            order = [node for node in order if log_probs[node] > -torch.inf]
            place = {node: i for i, node in enumerate(order)} | {-1: -1}
            drafts.append(
                ([tokens[n] for n in order], [place[parents[n]] for n in order], [log_probs[n] for n in order])
            )
        return drafts
