"""Laws of append_: the nodes' rows are written, and nothing else is."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.testing import assert_same_bits, threads
from mtp_ext.testing_trees import TreeCase, random_parents, tree_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Append:
    """A cache of NaN, and what is to be written to it."""

    key: Tensor
    value: Tensor
    new_key: Tensor
    new_value: Tensor
    prefix_lengths: Tensor
    node_counts: Tensor | None
    page_table: Tensor | None = None

    def run(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """The cache afterwards, of the same strides; the one of this case stays as it is."""
        key, value = same_layout(self.key, device), same_layout(self.value, device)
        new = self.new_key.to(device), self.new_value.to(device)
        pages = None if self.page_table is None else self.page_table.to(device)
        counts = None if self.node_counts is None else self.node_counts.to(device)
        result = mtp_ext.append_(key, value, *new, self.prefix_lengths.to(device), page_table=pages, node_counts=counts)
        assert result is None
        return key.cpu(), value.cpu()

    def expected(self) -> tuple[Tensor, Tensor]:
        """The cache, a row at a time."""
        key, value = self.key.clone(), self.value.clone()
        for b, prefix in enumerate(self.prefix_lengths.tolist()):
            count = self.new_key.shape[1] if self.node_counts is None else int(self.node_counts[b])
            for node in range(count):
                page, row = b, prefix + node
                if self.page_table is not None:
                    page, row = int(self.page_table[b, row // key.shape[1]]), row % key.shape[1]
                key[page, row], value[page, row] = self.new_key[b, node], self.new_value[b, node]
        return key, value


def same_layout(tensor: Tensor, device: str) -> Tensor:
    """A copy on the device, as a slice of something larger where the tensor is one."""
    larger = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return larger.copy_(tensor)


def append_case(
    counts: list[int],
    prefix_lengths: list[int],
    *,
    kv_heads: int = 2,
    head_dim: int = 16,
    value_dim: int = 24,
    dtype: torch.dtype = torch.float32,
    page_size: int | None = None,
    strided: bool = False,
) -> Append:
    generator = torch.Generator().manual_seed(0)
    batch, nodes = len(counts), max(counts, default=0)
    capacity = max([prefix + count for prefix, count in zip(prefix_lengths, counts, strict=True)], default=0)

    def random(rows: int, dim: int) -> Tensor:
        numbers = torch.randn(batch, kv_heads, rows + 2, dim + 5, generator=generator).to(dtype)
        view = numbers[:, :, 1:-1, 3:-2].transpose(1, 2)
        return view if strided else view.contiguous()

    new_key, new_value = random(nodes, head_dim), random(nodes, value_dim)
    page_table = None
    if page_size is not None:
        columns = -(-capacity // page_size)
        page_table = torch.randperm(batch * columns, generator=generator).view(batch, columns)
        batch, capacity = batch * columns, page_size
    key, value = (random(capacity, dim).fill_(torch.nan) for dim in (head_dim, value_dim))
    node_counts = None if len(set(counts)) <= 1 else torch.tensor(counts)
    prefixes = torch.tensor(prefix_lengths, dtype=torch.int64)
    return Append(key, value, new_key, new_value, prefixes, node_counts, page_table)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=3),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 16, 17, 128]), st.sampled_from([1, 16, 33])),
    st.sampled_from(DTYPES),
    st.sampled_from([None, 1, 3, 16]),
    st.booleans(),
)
def test_writes_the_nodes_and_nothing_else(
    device: str,
    requests: list[tuple[int, int]],
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    page_size: int | None,
    strided: bool,
) -> None:
    counts, prefixes = [count for count, _ in requests], [prefix for _, prefix in requests]
    kv_heads, head_dim, value_dim = sizes
    case = append_case(
        counts,
        prefixes,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        page_size=page_size,
        strided=strided,
    )
    assert_same_bits(case.run(device), case.expected())
    key, value = case.key.clone(), case.value.clone()
    reference.append_(key, value, case.new_key, case.new_value, case.prefix_lengths, case.page_table, case.node_counts)
    assert_same_bits((key, value), case.expected())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 7, 64])
def test_pages_hold_what_a_contiguous_cache_holds(device: str, page_size: int, dtype: torch.dtype) -> None:
    counts, prefixes = [70, 3, 0], [60, 0, 5]
    key, value = append_case(counts, prefixes, dtype=dtype).run(device)
    paged = append_case(counts, prefixes, dtype=dtype, page_size=page_size)
    capacity = key.shape[1]
    for pool, cache in zip(paged.run(device), (key, value), strict=True):
        rows = pool[paged.page_table].flatten(1, 2)
        assert_same_bits(rows[:, :capacity], cache)
        assert rows[:, capacity:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [None, 16])
def test_then_attention_is_attention_over_the_concatenation(
    device: str, page_size: int | None, dtype: torch.dtype
) -> None:
    """Prompt, tree and next tree: each is appended to a cache that starts empty, and attended to at once."""
    trees = [[random_parents(70, 1)] * 2, [random_parents(9, 3), random_parents(20, 3)], [[-1], [-1]]]
    prefixes = [[0, 0], [70, 55], [73, 55]]  # not all nodes are kept: the next ones go over the rest
    whole = tree_case([random_parents(100, 1)] * 2, [0, 0], dtype=dtype)
    empty = whole.map(torch.clone).changed(key=torch.full_like(whole.key, torch.nan))
    empty = empty.changed(value=torch.full_like(whole.value, torch.nan))
    cache = empty if page_size is None else empty.paged(page_size)
    concatenated = empty.map(torch.clone)
    for step, parents in enumerate(trees):
        case = tree_case(parents, prefixes[step], dtype=dtype, seed=step)
        counts = torch.tensor([len(tree) for tree in parents])
        new_key, new_value = nodes_of(case, case.key), nodes_of(case, case.value)
        table = cache.options.get("page_table")
        tensors = [x.to(device) for x in (cache.key, cache.value, new_key, new_value, case.prefix_lengths)]
        options = {"node_counts": counts.to(device), "page_table": None if table is None else table.to(device)}
        mtp_ext.append_(*tensors, **options)
        cache = cache.changed(key=tensors[0].cpu(), value=tensors[1].cpu())
        for b, (prefix, count) in enumerate(zip(prefixes[step], counts.tolist(), strict=True)):
            concatenated.key[b, prefix : prefix + count] = new_key[b, :count]
            concatenated.value[b, prefix : prefix + count] = new_value[b, :count]
        asked = {"query": case.query, "ancestors": case.ancestors, "prefix_lengths": case.prefix_lengths}
        asked["node_counts"] = counts
        assert_same_bits(cache.changed(**asked).run(device), concatenated.changed(**asked).run(device))


def nodes_of(case: TreeCase, cache: Tensor) -> Tensor:
    """[batch, nodes, kv_heads, dim]: the rows of a case's cache that hold its nodes."""
    lengths = case.prefix_lengths.tolist()
    return torch.stack([cache[b, prefix : prefix + case.nodes] for b, prefix in enumerate(lengths)])


def test_threads(device: str) -> None:
    case = append_case([300, 1], [50, 400], kv_heads=4, head_dim=128, value_dim=128)
    with threads(1):
        one = case.run(device)
    with threads(2):
        assert_same_bits(case.run(device), one)


def test_the_same_row_for_all_nodes_that_come(device: str) -> None:
    """New keys that are expanded: read with a stride of 0."""
    case = append_case([4, 4], [3, 9])
    same = Append(
        case.key,
        case.value,
        case.new_key[:1, :1].expand(2, 4, -1, -1),
        case.new_value[:1, :1].expand(2, 4, -1, -1),
        case.prefix_lengths,
        None,
    )
    assert_same_bits(same.run(device), same.expected())
