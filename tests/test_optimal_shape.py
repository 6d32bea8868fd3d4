"""Laws of TokenTree.optimal_shape: no tree of as many nodes is expected to be accepted further."""

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from token_trees import Path, check_valid, roots, token_paths

from mtp_ext import host
from mtp_ext.reference import tree as reference
from mtp_ext.tree import TokenTree


def all_shapes(nodes: int, max_depth: int, max_branching: int) -> Iterator[list[Path]]:
    """Every tree of exactly `nodes` nodes, as the rank paths of all nodes but the root."""

    def forests(size: int, rank: int, depth: int) -> Iterator[list[Path]]:
        if size == 0:
            yield []
        elif rank < max_branching and depth > 0:
            for child in range(1, size + 1):
                for below in all_shapes(child, depth - 1, max_branching):
                    for later in forests(size - child, rank + 1, depth):
                        yield [(rank,), *((rank, *path) for path in below), *later]

    yield from forests(nodes - 1, 0, max_depth)


def expected_length(choices: Sequence[Path], rates: Sequence[float]) -> float:
    """The sum over nodes of the product of rates on their path, the root included."""
    return 1.0 + sum(math.prod(rates[rank] for rank in choice) for choice in choices)


RATES = [[0.6, 0.2, 0.1], [0.1, 0.5, 0.3], [0.25, 0.25, 0.25], [0.0, 0.7], [0.9], [0.0, 0.0], [1.0], []]


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("limits", [(None, None), (2, None), (None, 2), (3, 2), (1, 1), (0, 5), (2, 0)], ids=str)
def test_a_shape_is_optimal(rates: list[float], limits: tuple[int | None, int | None]) -> None:
    max_depth, max_branching = limits
    widest = min(len(rates), len(rates) if max_branching is None else max_branching)
    deepest = 99 if max_depth is None else max_depth
    best = 0.0
    for nodes in range(1, 8):
        for choices in all_shapes(nodes, deepest, widest):
            best = max(best, expected_length(choices, rates))
        shape = TokenTree.optimal_shape(rates, nodes, max_depth=max_depth, max_branching=max_branching)
        assert shape.expected_length == pytest.approx(best, rel=1e-12)
        assert expected_length(shape.choices, rates) == pytest.approx(best, rel=1e-12)
        assert len(shape.choices) < nodes
        assert all(len(choice) <= deepest and max(choice) < widest for choice in shape.choices)
        known = {(), *shape.choices}
        for choice in shape.choices:
            assert choice[:-1] in known, "a node has its parent"
            assert choice[-1] == 0 or (*choice[:-1], choice[-1] - 1) in known, "ranks leave none out"


@given(
    st.lists(st.floats(0.0, 1.0), max_size=4).map(lambda rates: [rate / max(1.0, sum(rates)) for rate in rates]),
    st.integers(1, 12),
    st.integers(0, 12),
)
def test_compiled_shapes_equal_their_reference(rates: list[float], nodes: int, max_depth: int) -> None:
    choices, value = host.optimal_shape(rates, nodes, max_depth)
    expected_choices, expected_value = reference.optimal_shape(rates, nodes, max_depth)
    assert value == pytest.approx(expected_value, rel=1e-12)
    # Equally good shapes may be told apart by the last bit, which a fused multiply-add changes.
    assert expected_length(choices, rates) == pytest.approx(expected_length(expected_choices, rates), rel=1e-12)


def test_a_falling_rate_makes_the_most_probable_nodes_the_best() -> None:
    """Where the rates descend, a tree without limits holds simply the most probable nodes."""
    rates = [0.55, 0.15, 0.08, 0.04, 0.02]
    everything: list[float] = [1.0]
    for depth in range(1, 9):
        everything += [math.prod(ranks) for ranks in itertools.product(rates, repeat=depth) if math.prod(ranks) > 1e-3]
    nodes = 48
    best = sum(sorted(everything, reverse=True)[:nodes])
    assert TokenTree.optimal_shape(rates, nodes).expected_length == pytest.approx(best, rel=1e-12)


def test_no_node_is_wasted_on_what_is_never_accepted() -> None:
    assert TokenTree.optimal_shape([1.0, 0.0], 5).choices == [(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0)]
    assert TokenTree.optimal_shape([0.0, 0.0], 5) == ([], 1.0)
    assert TokenTree.optimal_shape([0.0, 1.0], 3) == ([(0,), (1,)], 2.0)


def test_a_shape_is_filled_by_from_choices() -> None:
    shape = TokenTree.optimal_shape([0.5, 0.2, 0.1], 16)
    depth = max(map(len, shape.choices))
    candidates = torch.arange(depth * 3).view(1, depth, 3)
    tree = TokenTree.from_choices(roots(1), shape.choices, candidates)
    check_valid(tree)
    assert tree.node_counts.tolist() == [16]
    ranks = [tuple(token % 3 for token in path) for path in token_paths(tree, 0)]
    assert ranks == [(), *shape.choices]
