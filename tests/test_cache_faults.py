"""Values that only a CUDA device knows: the ops on a cache skip them, report them, and do the rest of the work."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import mtp_ext
from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import TreeCase, random_parents, tree_case
from mtp_ext.verify import Accepted

TOO_LONG = "prefix_lengths and node_counts must fit into tree and cache, those of request # do not"
NO_PATH = "nodes must ascend from 0 within tree and cache for as long as lengths says, nodes[#] does not"


def assert_reported(op: str, sentence: str) -> None:
    """Fails unless this is what `check` says, once."""
    with pytest.raises(ValueError, match=f"^{re.escape(f'{op}: {sentence}')}$"):
        mtp_ext.check()
    mtp_ext.check()


def two_requests() -> TreeCase:
    return tree_case([random_parents(9, 3)] * 2, [70, 300])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prefix_lengths": torch.tensor([70, 10_000])}, TOO_LONG.replace("#", "1")),
        ({"prefix_lengths": torch.tensor([70, -1])}, TOO_LONG.replace("#", "1")),
        ({"prefix_lengths": torch.tensor([70, 1 << 40])}, TOO_LONG.replace("#", "1")),
        ({"node_counts": torch.tensor([9, 10])}, TOO_LONG.replace("#", "1")),
        ({"node_counts": torch.tensor([9, -1])}, TOO_LONG.replace("#", "1")),
    ],
)
def test_a_request_beyond_its_cache_sees_nothing(cuda_kernels: str, changes: dict[str, Tensor], sentence: str) -> None:
    case = two_requests()
    whole = case.run(cuda_kernels)
    out, lse = case.changed(**changes).run(cuda_kernels)
    assert_reported("tree_attention", sentence)
    assert_same_bits((out[0], lse[0]), (whole[0][0], whole[1][0]))
    assert (out[1] == 0).all()
    assert (lse[1] == -torch.inf).all()


@pytest.mark.parametrize("page", [-1, 99, 1 << 40])
def test_pages_that_there_are_not(cuda_kernels: str, page: int) -> None:
    case = two_requests().paged(16)
    whole = case.run(cuda_kernels)
    table = case.options["page_table"].clone()
    table[1, 3] = page
    out, lse = case.changed(page_table=table).run(cuda_kernels)
    columns = table.shape[1]
    said = f"page_table must name the cache's pages, entry {columns + 3} (counted over all requests) does not"
    assert_reported("tree_attention", said)
    assert_same_bits((out[0], lse[0]), (whole[0][0], whole[1][0]))

    key, value = case.key.to(cuda_kernels), case.value.to(cuda_kernels)
    new = torch.ones(2, 9, 2, 32, device=cuda_kernels)
    before = key.clone()
    prefixes = torch.tensor([5, 48], device=cuda_kernels)
    mtp_ext.append_(key, value, new, new, prefixes, page_table=table.to(cuda_kernels))
    assert_reported("append_", said)
    changed = (key != before).flatten(2).any(-1) & ~key.isnan().flatten(2).any(-1)
    assert changed.sum() == 9, "the other request's rows, and those alone"


def test_ancestors_beyond_the_nodes(cuda_kernels: str) -> None:
    case = two_requests()
    ancestors = case.ancestors.clone()
    ancestors[1, 3, 0] |= 1 << 9
    result = case.changed(ancestors=ancestors).run(cuda_kernels)
    said = "ancestors must have no bits beyond the nodes, row 12 (counted over all requests) has some"
    assert_reported("tree_attention", said)
    assert_same_bits(result, case.run(cuda_kernels))


def test_a_start_before_the_first_row(cuda_kernels: str) -> None:
    case = two_requests()
    result = case.changed(starts=torch.tensor([0, -4])).run(cuda_kernels)
    assert_reported("tree_attention", "starts must be at least 0, starts[1] is not")
    assert_same_bits(result, case.run(cuda_kernels))


def test_rows_beyond_the_cache_are_not_written(cuda_kernels: str) -> None:
    cache = torch.zeros(2, 10, 2, 16, device=cuda_kernels)
    new = torch.ones(2, 3, 2, 16, device=cuda_kernels)
    mtp_ext.append_(cache, cache.clone(), new, new, torch.tensor([8, 7], device=cuda_kernels))
    assert_reported("append_", TOO_LONG.replace("#", "0"))
    assert (cache.flatten(2) != 0).any(-1).nonzero().tolist() == [[1, 7], [1, 8], [1, 9]]


@pytest.mark.parametrize(
    "bad",
    [
        {"nodes": [0, 3, 2]},
        {"nodes": [1, 2, 3]},
        {"nodes": [0, 2, 4]},
        {"nodes": [0, 2, 1 << 40]},
        {"lengths": 5},
        {"lengths": -1},
        {"prefix": -1},
        {"prefix": 7},
        {"prefix": 1 << 62},
    ],
)
def test_paths_that_are_none_move_nothing(cuda_kernels: str, bad: dict[str, Any]) -> None:
    keys = torch.arange(20.0, device=cuda_kernels).view(2, 10, 1, 1).repeat(1, 1, 1, 16)
    nodes = torch.tensor([[0, 2, 3, -1], [*bad.get("nodes", [0, 2, 3]), -1]])
    lengths = torch.tensor([3, bad.get("lengths", 3)])
    prefixes = torch.tensor([2, bad.get("prefix", 2)])
    accepted = Accepted(nodes.to(cuda_kernels), lengths.to(cuda_kernels), lengths.to(cuda_kernels))
    new_lengths = mtp_ext.commit_([keys], [keys.clone()], prefixes.to(cuda_kernels), accepted)
    assert_reported("commit_", NO_PATH.replace("#", "1"))
    assert new_lengths.tolist() == [5, prefixes[1].item()]
    assert keys[0, :, 0, 0].tolist() == [0, 1, 2, 4, 5, 5, 6, 7, 8, 9]
    assert keys[1, :, 0, 0].tolist() == list(range(10, 20))
