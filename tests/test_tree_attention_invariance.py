"""The result of a request is the same bit for bit for any number of threads, batch, layout and size of the cache."""

import pytest
import torch
from laws import require_kernel

from mtp_ext.testing import assert_same_bits, threads
from mtp_ext.testing_trees import TreeCase, random_parents, siblings, tree_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BUSHY = 10_000

MIXED = [random_parents(20, 3), siblings(70), [-1], random_parents(8, 1)]
CASES = {
    "few heads, long prefixes": tree_case([random_parents(16, 3)] * 2, [9000, 3000], heads=1, kv_heads=1, head_dim=64),
    "bfloat16": tree_case([random_parents(16, 3)] * 2, [2500, 700], head_dim=64, dtype=torch.bfloat16),
    "one node": tree_case([[-1], [-1]], [4096, 40], heads=4, kv_heads=1, dtype=torch.bfloat16),
    "many tiles": tree_case([siblings(400)], [70], heads=8, kv_heads=2, dtype=torch.float16),
    "different trees": tree_case(MIXED, [300, 0, 1200, 64]),
    "different trees in bfloat16": tree_case(MIXED, [300, 0, 1200, 64], dtype=torch.bfloat16),
    "options": tree_case(
        MIXED,
        [300, 0, 1200, 64],
        head_dim=33,
        value_dim=17,
        starts=torch.tensor([100, 0, 3, 64]),
        window=90,
        softcap=20.0,
        sinks=torch.tensor([0.0, 3.0, -1.0, 9.0]),
    ),
    "chains": tree_case([random_parents(n, 1) for n in (3, 300, 1)], [1500, 0, 30]).changed(ancestors=None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_threads(device: str, case: TreeCase) -> None:
    require_kernel("tree_attention", device)
    with threads(1):
        one = case.run(device)
    with threads(2):
        assert_same_bits(case.run(device), one)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_place_in_the_batch(device: str, case: TreeCase, paged: bool) -> None:
    """Backwards, alone, and beside itself."""
    require_kernel("tree_attention", device)
    case = case.paged(16) if paged else case
    batch = case.run(device)
    requests = list(range(len(batch[0])))
    for chosen in (requests[::-1], *[[request] for request in requests], [*requests, *requests]):
        assert_same_bits(case.requests(chosen).run(device), [part[chosen] for part in batch])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_neighbours_with_larger_trees(device: str, case: TreeCase) -> None:
    """Padding to the largest tree of the batch changes no bit of a smaller one."""
    require_kernel("tree_attention", device)
    batch = case.run(device)
    for b, count in enumerate(case.node_counts):
        alone = case.requests([b])
        words = None if case.ancestors is None else alone.ancestors[:, :count, : (count + 63) // 64]
        alone = alone.changed(query=alone.query[:, :count], ancestors=words, node_counts=None)
        assert_same_bits(alone.run(device), [part[b : b + 1, :count] for part in batch])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layout(device: str, case: TreeCase) -> None:
    """Strides, pages of any size, and a larger cache."""
    require_kernel("tree_attention", device)
    expected = case.run(device)
    larger = case.changed(
        key=torch.nn.functional.pad(case.key, (0, 0, 0, 0, 0, 100)),
        value=torch.nn.functional.pad(case.value, (0, 0, 0, 0, 0, 100)),
    )
    for other in (case.strided(), case.paged(1), case.paged(24), case.paged(256).strided(), larger):
        assert_same_bits(other.run(device), expected)
