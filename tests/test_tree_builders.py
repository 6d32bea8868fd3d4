"""Laws of the tree builders: valid trees without equal siblings, optimal where they say so, the same in any batch."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from token_trees import SMALL_TREE, Path, best_sum, check_valid, probability_sum, roots, small_joint, token_paths
from torch import Tensor

import mtp_ext
from mtp_ext import Branches, TopPairs, host
from mtp_ext.reference import tree as reference
from mtp_ext.testing import dense_case, peaked_logits
from mtp_ext.tree import TokenTree

# ---- from_paths -------------------------------------------------------------------------------------------


token_lists = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8)


@given(st.lists(token_lists, max_size=3))
def test_a_trie_holds_every_beginning_once(device: str, paths: list[list[list[int]]]) -> None:
    tree = TokenTree.from_paths(roots(len(paths), device), paths)
    check_valid(tree)
    assert tree.log_probs is None
    assert tree.parents.device.type == device
    for request, continuations in enumerate(paths):
        beginnings = {tuple(path[:i]) for path in continuations for i in range(len(path) + 1)} | {()}
        assert set(token_paths(tree, request)) == beginnings


@given(token_lists, st.integers(1, 12))
def test_a_trie_cut_short_keeps_the_nodes_that_came_first(paths: list[list[int]], budget: int) -> None:
    whole, short = (TokenTree.from_paths(roots(1), [paths], budget=size) for size in (None, budget))
    assert token_paths(short, 0) == token_paths(whole, 0)[:budget]


def test_a_small_trie() -> None:
    tree = TokenTree.from_paths(roots(3), [[[5, 6, 7], [5, 6, 8], [9]], [], [[5], [5]]])
    assert tree.tokens.tolist() == [[100, 5, 6, 7, 8, 9], [101, 0, 0, 0, 0, 0], [102, 5, 0, 0, 0, 0]]
    assert tree.parents.tolist() == [[-1, 0, 1, 2, 2, 0], [-1, -2, -2, -2, -2, -2], [-1, 0, -2, -2, -2, -2]]


def test_budgets_of_their_own() -> None:
    tree = TokenTree.from_paths(roots(2), [[[1, 2, 3]], [[1, 2, 3]]], budget=[2, 3])
    assert tree.node_counts.tolist() == [2, 3]


# ---- from_choices -----------------------------------------------------------------------------------------


def test_static_choices(device: str) -> None:
    candidates = torch.tensor([[[10, 11], [20, 21]], [[30, 31], [40, 41]]], device=device)
    tree = TokenTree.from_choices(roots(2, device), SMALL_TREE, candidates)
    check_valid(tree)
    assert tree.tokens.tolist() == [[100, 10, 11, 20, 21, 20], [101, 30, 31, 40, 41, 40]]
    assert tree.parents.tolist() == [[-1, 0, 0, 1, 1, 2]] * 2
    assert tree.parents.device == candidates.device


def test_the_order_of_choices_does_not_matter() -> None:
    candidates = torch.arange(4).view(1, 2, 2)
    tree = TokenTree.from_choices(roots(1), SMALL_TREE, candidates)
    for shuffled in itertools.permutations(SMALL_TREE):
        again = TokenTree.from_choices(roots(1), [*shuffled, shuffled[0]], candidates)
        assert torch.equal(again.tokens, tree.tokens)
        assert torch.equal(again.parents, tree.parents)


def test_equal_and_missing_candidates() -> None:
    candidates = torch.tensor([[[10, 10], [20, 21]], [[-1, 11], [20, 21]], [[10, 11], [-1, -1]]])
    tree = TokenTree.from_choices(roots(3), SMALL_TREE, candidates)
    check_valid(tree)
    assert token_paths(tree, 0) == [(), (10,), (10, 20), (10, 21)]
    assert token_paths(tree, 1) == [(), (11,), (11, 20)]
    assert token_paths(tree, 2) == [(), (10,), (11,)]


def test_no_choices_is_the_root_alone() -> None:
    tree = TokenTree.from_choices(roots(2), [], torch.empty(2, 0, 0, dtype=torch.int64))
    assert tree.parents.tolist() == [[-1], [-1]]


# ---- best_first -------------------------------------------------------------------------------------------


@st.composite
def candidate_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Tokens and log-probabilities [batch, depth, k] with ties, equal tokens, missing candidates, in any order."""
    shape = draw(st.tuples(st.integers(1, 2), st.integers(0, 3), st.integers(1, 2)))
    count = math.prod(shape)
    tokens = draw(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 6]), min_size=count, max_size=count))
    levels = st.sampled_from([0.0, -0.2, -0.5, -0.7, -1.3, -9.0, -300.0, -math.inf])
    log_probs = draw(st.lists(levels, min_size=count, max_size=count))
    return torch.tensor(tokens, dtype=torch.int64).view(shape), torch.tensor(log_probs).view(shape)


def independent_paths(tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> dict[Path, float]:
    """Every path's log-probability."""
    paths: dict[Path, float] = {(): 0.0}
    level = [()]
    for depth_tokens, depth_log_probs in zip(tokens, log_probs, strict=True):
        best: dict[int, float] = {}
        for token, log_prob in zip(depth_tokens, depth_log_probs, strict=True):
            if token >= 0 and log_prob > -math.inf:
                best[token] = max(log_prob, best.get(token, -math.inf))
        children = {(*path, token): paths[path] + best[token] for path in level for token in best}
        paths.update(children)
        level = list(children)
    del paths[()]
    return paths


@given(candidate_batches(), st.integers(1, 6))
def test_best_first_is_optimal(device: str, candidates: tuple[Tensor, Tensor], budget: int) -> None:
    tokens, log_probs = (tensor.to(device) for tensor in candidates)
    tree = TokenTree.best_first(roots(len(tokens), device), tokens, log_probs, budget=budget)
    check_valid(tree)
    for request in range(len(tokens)):
        everything = independent_paths(tokens[request].tolist(), log_probs[request].tolist())
        found = token_paths(tree, request)[1:]
        assert len(found) == min(budget - 1, len(everything))
        row = tree.log_probs[request, 1 : len(found) + 1].tolist()
        assert row == pytest.approx([everything[path] for path in found], rel=1e-6)
        assert probability_sum(tree, request) == pytest.approx(best_sum(everything, budget - 1), rel=1e-6)


@given(candidate_batches(), st.integers(1, 20))
def test_compiled_best_first_equals_its_reference(candidates: tuple[Tensor, Tensor], budget: int) -> None:
    for tokens, log_probs in zip(*(tensor.tolist() for tensor in candidates), strict=True):
        arguments = (7, tokens, log_probs, budget)
        assert tuple(host.best_first(*arguments)) == tuple(reference.best_first(*arguments))


@given(token_lists, st.integers(1, 20))
def test_compiled_merge_equals_its_reference(paths: list[list[int]], budget: int) -> None:
    assert tuple(host.merge_paths(7, paths, budget)) == tuple(reference.merge_paths(7, paths, budget))


def test_a_large_tree_is_the_best_of_all_paths() -> None:
    """Where every path can be listed, the best nodes are simply the most probable ones."""
    depth, k, budget = 4, 10, 512
    log_probs, tokens = peaked_logits(depth, 49152, seed=3).log_softmax(-1).topk(k)
    tree = TokenTree.best_first(roots(1), tokens[None], log_probs[None], budget=budget)
    check_valid(tree)
    everything = independent_paths(tokens.tolist(), log_probs.tolist())
    best = sorted(everything, key=lambda path: -everything[path])[: budget - 1]
    assert set(token_paths(tree, 0)[1:]) == set(best)


def test_ties_go_to_the_earlier_parent_then_to_the_earlier_candidate() -> None:
    tokens = torch.tensor([[[3, 1], [2, 4]]])
    tree = TokenTree.best_first(roots(1), tokens, torch.zeros(1, 2, 2), budget=7)
    assert token_paths(tree, 0) == [(), (3,), (1,), (3, 2), (3, 4), (1, 2), (1, 4)]


def test_what_rounding_puts_above_zero_counts_as_zero() -> None:
    tree = TokenTree.best_first(roots(1), torch.tensor([[[3]]]), torch.tensor([[[1e-6]]]), budget=2)
    assert tree.log_probs.tolist() == [[0.0, 0.0]]


# ---- from_joint -------------------------------------------------------------------------------------------


def joint_paths(branches: Branches, pairs: TopPairs, request: int) -> dict[Path, float]:
    """Every path that a tree may hold, with its log-probability."""
    first = list(zip(branches.tokens[request].tolist(), branches.log_probs[request].tolist(), strict=True))
    paths: dict[Path, float] = {(token,): log_prob for token, log_prob in first if token >= 0}
    for place, token, log_prob in zip(
        *(part[request].tolist() for part in (pairs[1], pairs[2], pairs[0])), strict=True
    ):
        if token >= 0:
            paths[first[place][0], token] = log_prob
    return paths


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_a_joint_tree_is_optimal(device: str, seed: int, budget: int) -> None:
    logits = peaked_logits(2, 300, seed=seed).to(device)
    branches = mtp_ext.select_branches(logits, top_k=3)
    second = dense_case(2, 3, 300, seed=seed).logits.to(device)
    pairs = mtp_ext.joint_topk(second, branches.log_probs, k=6)
    tree = TokenTree.from_joint(roots(2, device), branches, pairs, budget=budget)
    check_valid(tree)
    for request in range(2):
        everything = joint_paths(branches, pairs, request)
        found = token_paths(tree, request)[1:]
        assert len(found) == budget - 1
        row = tree.log_probs[request, 1 : len(found) + 1].tolist()
        assert row == pytest.approx([everything[path] for path in found], abs=1e-5)
        assert probability_sum(tree, request) == pytest.approx(best_sum(everything, budget - 1), rel=1e-5)


def test_a_small_joint_tree() -> None:
    tree = TokenTree.from_joint(roots(2), *small_joint(), budget=5)
    assert token_paths(tree, 0) == [(), (7,), (7, 8), (5,), (5, 8)]
    assert token_paths(tree, 1) == [(), (7,), (7, 8)]
    assert tree.log_probs.tolist() == [[0.0, -0.5, -0.75, -1.0, -1.5], [0.0, 0.0, -0.25, -math.inf, -math.inf]]


def test_a_joint_tree_merges_equal_branches_and_pairs() -> None:
    branches, pairs = small_joint()
    branches.tokens[0] = 7
    tree = TokenTree.from_joint(roots(2), branches, pairs, budget=9)
    check_valid(tree)
    assert token_paths(tree, 0) == [(), (7,), (7, 8), (7, 9)]
    assert tree.log_probs[0].tolist() == [0.0, -0.5, -0.75, -2.0]


def test_a_pair_that_rounding_put_above_its_branch_stays_below_it() -> None:
    branches, pairs = small_joint()
    pairs.log_probs[0, 0] = -0.4999
    tree = TokenTree.from_joint(roots(2), branches, pairs, budget=3)
    check_valid(tree)
    assert token_paths(tree, 0) == [(), (7,), (7, 8)]
    assert tree.log_probs[0].tolist() == [0.0, -0.5, -0.5]


# ---- Batches ----------------------------------------------------------------------------------------------


def grow(name: str, requests: slice, device: str = "cpu") -> TokenTree:
    """Trees of three requests, or of some of them."""
    generator = torch.Generator().manual_seed(1)
    candidates = torch.randint(0, 9, (3, 3, 4), generator=generator)
    log_probs = torch.randn(3, 3, 4, generator=generator).log_softmax(-1)
    log_probs[1, 1:] = -math.inf
    candidates[2, 2] = -1
    logits = peaked_logits(3, 50, seed=1)
    branches = mtp_ext.select_branches(logits, top_p=0.9, max_branches=12)
    pairs = mtp_ext.joint_topk(dense_case(3, 12, 50).logits, branches.log_probs, k=20)
    arguments: dict[str, tuple[Any, ...]] = {
        "from_choices": ([(0,), (1,), (2,), (0, 0), (0, 1), (0, 0, 0)], candidates[requests]),
        "from_paths": ([[[1, 2], [1, 3]], [], [[4, 4, 4]]][requests],),
        "best_first": (candidates[requests], log_probs[requests]),
        "from_joint": (Branches(*(x[requests] for x in branches)), TopPairs(*(x[requests] for x in pairs))),
    }
    options = {} if name == "from_choices" else {"budget": [11, 8, 5][requests]}
    return getattr(TokenTree, name)(roots(3)[requests], *arguments[name], **options)


@pytest.mark.parametrize("name", ["from_choices", "from_paths", "best_first", "from_joint"])
def test_a_tree_does_not_depend_on_its_place_in_the_batch(name: str) -> None:
    batch = grow(name, slice(None))
    check_valid(batch)
    assert len(set(batch.node_counts.tolist())) > 1, "the requests should differ in size"
    for request, count in enumerate(batch.node_counts.tolist()):
        alone = grow(name, slice(request, request + 1))
        assert torch.equal(batch.tokens[request : request + 1, :count], alone.tokens)
        assert torch.equal(batch.parents[request : request + 1, :count], alone.parents)
        if batch.log_probs is not None:
            assert torch.equal(batch.log_probs[request : request + 1, :count], alone.log_probs)


@pytest.mark.parametrize("name", ["from_choices", "from_paths", "best_first", "from_joint"])
def test_an_empty_batch(name: str) -> None:
    tree = grow(name, slice(0, 0))
    assert tree.tokens.shape == tree.parents.shape == (0, 0)
    assert (tree.log_probs is None) == (name in ("from_choices", "from_paths"))
