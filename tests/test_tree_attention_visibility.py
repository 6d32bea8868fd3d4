"""Who sees whom in tree_attention: siblings, permuted nodes, padding, rows that see nothing or that nobody sees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_attention import BUSHY, DTYPES, plain_attention_of_paths, trees
from torch import Tensor

from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import TreeCase, assert_attends, random_parents, siblings, tree_case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodes", [3, 9, 130, 400])
def test_siblings_never_see_each_other(device: str, nodes: int, dtype: torch.dtype) -> None:
    """Whatever they are, each has the same bits."""
    case = tree_case([siblings(nodes)], [70], dtype=dtype)
    out, lse = case.run(device)
    for chosen in {1, 2, nodes // 2, nodes - 1}:
        others = [node for node in range(1, nodes) if node != chosen]
        rows = [70 + node for node in others]
        changed = case.map(torch.clone)
        changed.query[:, others] *= -7.0
        changed.key[:, rows] *= 100.0
        changed.value[:, rows] += 100.0
        changed_out, changed_lse = changed.run(device)
        assert_same_bits(changed_out[:, [0, chosen]], out[:, [0, chosen]])
        assert_same_bits(changed_lse[:, [0, chosen]], lse[:, [0, chosen]])


@settings(max_examples=15)
@given(trees(), st.sampled_from([0, 70]), st.sampled_from(DTYPES), st.sampled_from([None, 2]))
def test_permuting_the_nodes_permutes_the_output(
    device: str, parents: list[int], prefix: int, dtype: torch.dtype, window: int | None
) -> None:
    """Even to orders in which a child comes before its parent."""
    case = tree_case([parents], [prefix], dtype=dtype, window=window)
    order = torch.randperm(len(parents), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([torch.arange(prefix), prefix + order])
    sees = visible(case.ancestors, len(parents))[:, order][:, :, order]
    permuted = case.changed(
        query=case.query[:, order], key=case.key[:, rows], value=case.value[:, rows], ancestors=pack(sees)
    )
    out, lse = case.oracle()
    assert_attends(permuted.run(device), permuted, (out[:, order], lse[:, order]))


def visible(ancestors: Tensor, nodes: int) -> Tensor:
    """bool [batch, nodes, nodes]"""
    node = torch.arange(nodes)
    return (ancestors[..., node // 64] >> (node % 64)) & 1 == 1


def pack(sees: Tensor) -> Tensor:
    """The inverse of `visible`."""
    nodes = sees.shape[-1]
    bits = torch.nn.functional.pad(sees.long(), (0, -nodes % 64)).unflatten(-1, (-1, 64))
    return (bits << torch.arange(64)).sum(-1)


def padded(case: TreeCase, nodes: int, garbage: float, *, counts: bool) -> TreeCase:
    """With padding up to `nodes`, in the queries and in the cache; told by `node_counts`, or by empty ancestors."""
    more, words = nodes - case.nodes, (nodes + 63) // 64 - case.ancestors.shape[-1]
    pad = torch.nn.functional.pad
    live = case.prefix_lengths.max() + case.nodes
    return case.changed(
        query=pad(case.query, (0, 0, 0, 0, 0, more), value=garbage),
        key=pad(case.key[:, :live], (0, 0, 0, 0, 0, more), value=garbage),
        value=pad(case.value[:, :live], (0, 0, 0, 0, 0, more), value=garbage),
        ancestors=pad(case.ancestors, (0, words, 0, more)),
        node_counts=torch.full_like(case.prefix_lengths, case.nodes) if counts else None,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("garbage", [1e4, torch.nan])
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "empty ancestors"])
@pytest.mark.parametrize(("nodes", "more"), [(1, 1), (2, 64), (7, 1), (20, 5), (60, 10), (64, 64)])
def test_padding_changes_nothing(
    device: str, nodes: int, more: int, counts: bool, garbage: float, dtype: torch.dtype
) -> None:
    """However much there is of it; it gives zeros and -inf itself."""
    case = tree_case([random_parents(nodes, BUSHY)], [300], dtype=dtype)
    out, lse = padded(case, nodes + more, garbage, counts=counts).run(device)
    assert (out[:, nodes:] == 0).all()
    assert (lse[:, nodes:] == -torch.inf).all()
    assert_attends((out[:, :nodes], lse[:, :nodes]), case)


@pytest.mark.parametrize("sinks", [None, torch.tensor([1.0, -3.0, 0.0, 50.0])])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_see_nothing_are_zero(device: str, dtype: torch.dtype, sinks: Tensor | None) -> None:
    """No node at all; a node that sees a padding node alone; an empty row; a causal chain of fewer nodes."""
    case = tree_case([random_parents(9, 3)] * 3, [40, 0, 7], dtype=dtype, sinks=sinks)
    ancestors = case.ancestors.clone()
    ancestors[1, 4], ancestors[2, 3] = 1 << 8, 0
    case = case.changed(ancestors=ancestors, node_counts=torch.tensor([0, 8, 9]), starts=torch.tensor([0, 0, 7]))
    nothing = torch.zeros(3, 9, dtype=torch.bool)
    nothing[0], nothing[1, 8], nothing[1, 4], nothing[2, 3] = True, True, True, True
    result = case.run(device)
    assert_attends(result, case)
    assert (result[0][nothing] == 0).all()
    assert torch.equal(result[1] == -torch.inf, nothing[..., None].expand(-1, -1, 4))

    chain = case.changed(ancestors=None)
    result = chain.run(device)
    assert_attends(result, chain)
    assert (result[0][0] == 0).all()
    assert (result[1][1, 8] == -torch.inf).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("paged", [False, True])
def test_rows_that_nobody_sees_may_hold_anything(device: str, paged: bool, dtype: torch.dtype) -> None:
    """Before the start of a left-padded prompt, and what has left every window."""
    case = tree_case([random_parents(9, 3)] * 2, [500, 300], head_dim=17, value_dim=33, dtype=dtype)
    for options in ({"starts": torch.tensor([130, 299])}, {"window": 100}):
        clean = case.changed(**options)
        garbage = clean.map(torch.clone)
        for b, unseen in enumerate([130, 200] if "starts" in options else [400, 200]):
            garbage.key[b, :unseen] = garbage.value[b, :unseen] = torch.nan
        if paged:
            clean, garbage = clean.paged(16), garbage.paged(16)
        assert_same_bits(garbage.run(device), clean.run(device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_left_padding_changes_nothing(device: str, dtype: torch.dtype) -> None:
    trees = [random_parents(9, 3), random_parents(5, 1)]
    case = tree_case(trees, [300, 40], dtype=dtype, window=60)
    by = 29
    shifted = case.changed(
        key=torch.nn.functional.pad(case.key, (0, 0, 0, 0, by, 0), value=1e3),
        value=torch.nn.functional.pad(case.value, (0, 0, 0, 0, by, 0), value=1e3),
        prefix_lengths=case.prefix_lengths + by,
        starts=torch.tensor([by, by]),
    )
    assert_attends(shifted.run(device), case, plain_attention_of_paths(case, trees, window=60))
