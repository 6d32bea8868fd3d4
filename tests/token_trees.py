"""What the tests of the tree builders ask of a tree, and small inputs."""

import itertools
import math

import torch
from torch import Tensor

from mtp_ext import Branches, TopPairs
from mtp_ext.tree import TokenTree

Path = tuple[int, ...]
SMALL_TREE = [(0,), (1,), (0, 0), (0, 1), (1, 0)]


def roots(batch: int, device: str = "cpu") -> Tensor:
    """Root tokens 100, 101, ..."""
    return torch.arange(100, 100 + batch, device=device)


def token_paths(tree: TokenTree, request: int) -> list[Path]:
    """The tokens below the root on the path to each node, in node order; fails where two siblings are equal."""
    tokens, parents = tree.tokens[request].tolist(), tree.parents[request].tolist()
    count = int(tree.node_counts[request])
    assert tokens[0] == 100 + request
    assert tokens[count:] == [0] * (len(tokens) - count), "padding holds token 0"
    paths: list[Path] = [()]
    for token, parent in zip(tokens[1:count], parents[1:count], strict=True):
        paths.append((*paths[parent], token))
    assert len(set(paths)) == len(paths), "equal siblings"
    return paths


def check_valid(tree: TokenTree) -> None:
    """Fails unless the tree passes validation, is no wider than it must be, and its log-probabilities descend."""
    TokenTree(tree.tokens, tree.parents, tree.log_probs)
    assert tree.parents.shape[1] == max(tree.node_counts.tolist(), default=0)
    if tree.log_probs is not None:
        assert tree.log_probs.dtype == torch.float32
        assert torch.equal(tree.log_probs == -torch.inf, tree.parents == -2)
        for row, count in zip(tree.log_probs.tolist(), tree.node_counts.tolist(), strict=True):
            assert row[0] == 0.0
            assert row[:count] == sorted(row[:count], reverse=True)


def best_sum(log_probs: dict[Path, float], nodes: int) -> float:
    """The largest sum of probabilities of `nodes` paths, or of all, that hold each path's parent: every set tried."""
    size = min(nodes, len(log_probs))
    closed = (
        chosen
        for chosen in itertools.combinations(log_probs, size)
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    )
    return max(sum(math.exp(log_probs[path]) for path in chosen) for chosen in closed)


def probability_sum(tree: TokenTree, request: int = 0) -> float:
    """The sum of path probabilities below the root."""
    assert tree.log_probs is not None
    return tree.log_probs[request, 1:].double().exp().sum().item()


def small_joint() -> tuple[Branches, TopPairs]:
    """Two requests; the second has one branch, and neither has as many pairs as there is room for."""
    inf = math.inf
    branches = Branches(
        torch.tensor([[7, 5], [7, -1]]),
        torch.tensor([[-0.5, -1.0], [0.0, -inf]]),
        torch.tensor([2, 1]),
        torch.tensor([0.0, 0.0]),
    )
    pairs = TopPairs(
        torch.tensor([[-0.75, -1.5, -2.0], [-0.25, -inf, -inf]]),
        torch.tensor([[0, 1, 0], [0, -1, -1]]),
        torch.tensor([[8, 8, 9], [8, -1, -1]]),
    )
    return branches, pairs
