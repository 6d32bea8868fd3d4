"""Trees on the host: the definition of correct for csrc/host, and what runs without it.

Arguments are not checked here: mtp_ext.tree and mtp_ext.tree_builders do that. What the builders return is one entry a
node, of one request: node 0 is the root, parents come before children.
"""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tree_structure(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`double_paths` for arrays."""
    depths, ancestors = double_paths(torch.from_numpy(parents))
    return depths.numpy(), ancestors.numpy()


def double_paths(parents: Tensor) -> tuple[Tensor, Tensor]:
    """Depths and ancestors of trees, on any device without waiting for it: each round doubles the path that a node
    has walked towards the root.

    Args:
        parents: int64 [batch, nodes], a parent before its child, -1 for the root, -2 for padding.

    Returns:
        int64 [batch, nodes]: edges from the root, -1 for padding; and int64 [batch, nodes, ceil(nodes / 64)]: bit
        j % 64 of word j // 64 of row i is set when node i is node j or below it; zero for padding.
    """
    batch, nodes = parents.shape
    index = torch.arange(nodes, device=parents.device)
    itself = torch.zeros(nodes, (nodes + 63) // 64, dtype=torch.int64, device=parents.device)
    itself.scatter_(1, index[:, None] // 64, torch.ones_like(index)[:, None] << (index[:, None] % 64))
    ancestors = itself.expand(batch, -1, -1).masked_fill((parents == -2)[..., None], 0)
    depths = (parents >= 0).long()
    jump = parents.where(parents >= 0, index)
    for _ in range(max(nodes - 1, 0).bit_length()):
        ancestors = ancestors | ancestors.gather(1, jump[..., None].expand_as(ancestors))
        depths = depths + depths.gather(1, jump)
        jump = jump.gather(1, jump)
    return depths.masked_fill(parents == -2, -1), ancestors


def merge_paths(root_token: int, paths: Sequence[Sequence[int]], budget: int) -> tuple[list[int], list[int], list[int]]:
    """The trie of `paths` below a root, equal prefixes merged, cut at `budget` nodes (root included), earlier paths
    first: tokens, parents, and sources (the path that brought the node, -1 for the root)."""
    tokens, parents, sources = [root_token], [-1], [-1]
    children: dict[tuple[int, int], int] = {}
    for source, path in enumerate(paths):
        node = 0
        for token in path:
            if (node, token) not in children:
                if len(tokens) >= budget:
                    break
                children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
                sources.append(source)
            node = children[node, token]
    return tokens, parents, sources


def best_first(
    root_token: int, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]], budget: int
) -> tuple[list[int], list[int], list[float]]:
    """The `budget` nodes (root included) of highest path probability, the sum of the candidates' `log_probs` over the
    depths: tokens, parents and path log-probabilities.

    `tokens` and `log_probs` are [depth, k]. Candidates with a negative token or a log-probability of -inf do not
    exist; of equal tokens the best one counts. Nodes come in descending order; ties go to the earlier parent, then to
    the earlier candidate.
    """
    candidates = [_rank(*depth) for depth in zip(tokens, log_probs, strict=True)]
    node_tokens, parents, path_log_probs, depths = [root_token], [-1], [0.0], [0]
    offers: list[tuple[float, int, int]] = []  # minus log-probability, parent, rank

    def offer(parent: int, rank: int) -> None:
        depth = depths[parent]
        if depth < len(candidates) and rank < len(candidates[depth]):
            log_prob = path_log_probs[parent] + candidates[depth][rank][1]
            heapq.heappush(offers, (-log_prob, parent, rank))

    # No child is more probable than its parent, and no candidate than the one before it.
    offer(0, 0)
    while offers and len(parents) < budget:
        negative, parent, rank = heapq.heappop(offers)
        node_tokens.append(candidates[depths[parent]][rank][0])
        parents.append(parent)
        path_log_probs.append(-negative)
        depths.append(depths[parent] + 1)
        offer(parent, rank + 1)
        offer(len(parents) - 1, 0)
    return node_tokens, parents, path_log_probs


def _rank(tokens: Sequence[int], log_probs: Sequence[float]) -> list[tuple[int, float]]:
    best: dict[int, float] = {}
    for token, log_prob in sorted(zip(tokens, log_probs, strict=True), key=lambda candidate: -candidate[1]):
        if token >= 0 and log_prob > -math.inf:
            best.setdefault(token, log_prob)
    return list(best.items())


def optimal_shape(acceptance_rates: Sequence[float], nodes: int, max_depth: int) -> tuple[list[list[int]], float]:
    """The tree of at most `nodes` nodes (root included) and `max_depth` levels below the root with the largest sum
    over nodes of (product over the path from the root of acceptance_rates[rank of the child]): paths of child ranks,
    one for each node but the root, and the sum, root included.

    tree(n) = 1 + forest(0, n - 1); forest(r, m) = max(0, max over s of rate[r] * tree'(s) + forest(r + 1, m - s)),
    where tree' has one level less, or is the tree itself where the depth has no limit.
    """
    limited = max_depth < nodes - 1
    levels = [_best_level([] if limited else acceptance_rates, nodes, None)]
    for _ in range(max_depth if limited else 0):
        levels.append(_best_level(acceptance_rates, nodes, levels[-1][0]))
    paths = []
    open_subtrees: list[tuple[list[int], int, int]] = [([], len(levels) - 1, nodes)]  # path, level, nodes
    while open_subtrees:
        parent, level, size = open_subtrees.pop()
        below = size - 1
        for rank, child_sizes in enumerate(levels[level][1]):
            if child_sizes[below] == 0:
                break
            paths.append([*parent, rank])
            open_subtrees.append((paths[-1], level - limited, child_sizes[below]))
            below -= child_sizes[below]
    return sorted(paths, key=lambda path: (len(path), path)), levels[-1][0][nodes]


def _best_level(rates: Sequence[float], nodes: int, subtree: list[float] | None) -> tuple[list[float], list[list[int]]]:
    """tree [nodes + 1], and child_sizes [ranks, nodes]: what the child of each rank gets, 0 where it and the later
    ones are left out. `subtree`: tree' of the children; None: this very tree."""
    tree = [1.0] * (nodes + 1)
    subtree = tree if subtree is None else subtree
    child_sizes = [[0] * nodes for _ in rates]
    forest = [[0.0] * nodes for _ in range(len(rates) + 1)]
    for below in range(1, nodes):
        for rank in reversed(range(len(rates))):
            for size in range(1, below + 1):
                value = rates[rank] * subtree[size] + forest[rank + 1][below - size]
                if value > forest[rank][below]:
                    forest[rank][below] = value
                    child_sizes[rank][below] = size
        tree[below + 1] = 1.0 + forest[0][below]
    return tree, child_sizes
