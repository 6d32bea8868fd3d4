"""Laws of commit_: the accepted rows, and no others, end up together behind the prefix, in every layer."""

from random import Random
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mtp_ext
from mtp_ext.testing import assert_same_bits, threads
from mtp_ext.verify import Accepted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Caches = tuple[list[Tensor], list[Tensor]]


def accepted_of(paths: list[list[int]], nodes: int) -> Accepted:
    table = torch.tensor([path + [-1] * (nodes - len(path)) for path in paths], dtype=torch.int64)
    lengths = torch.tensor([len(path) for path in paths], dtype=torch.int64)
    return Accepted(table.view(len(paths), nodes), lengths, torch.zeros_like(lengths))


def random_paths(batch: int, nodes: int, seed: int) -> list[list[int]]:
    """Ascending from 0; some requests have none."""
    random = Random(seed)
    lengths = [random.randint(0, nodes) for _ in range(batch)]
    return [[0, *sorted(random.sample(range(1, nodes), length - 1))] if length else [] for length in lengths]


def caches_of(layers: int, *shape: int, dtype: torch.dtype = torch.float32, strided: bool = False) -> Caches:
    """Keys of 16 numbers a head and values of 24, all different; the first layer has a head more."""

    def cache(layer: int, dim: int) -> Tensor:
        sizes = (*shape[:2], shape[2] + (layer == 0), dim)
        numbers = torch.randn(sizes, generator=torch.Generator().manual_seed(layer * 100 + dim)).to(dtype)
        if not strided:
            return numbers
        larger = torch.full((sizes[2] + 1, sizes[0], sizes[1] + 2, dim + 3), torch.nan, dtype=dtype)
        view = larger.permute(1, 2, 0, 3)[:, 1:-1, 1:, 2:-1]
        return view.copy_(numbers)

    return [cache(layer, 16) for layer in range(layers)], [cache(layer, 24) for layer in range(layers)]


def commit(
    caches: Caches, prefixes: list[int], accepted: Accepted, device: str, **options: Any
) -> tuple[Caches, Tensor]:
    """The caches afterwards, of the same strides, and the new lengths; those given stay as they are."""

    def there(tensor: Tensor) -> Tensor:
        larger = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
        return larger.copy_(tensor)

    keys, values = ([there(cache) for cache in part] for part in caches)
    options = {name: x.to(device) for name, x in options.items()}
    lengths = torch.tensor(prefixes, dtype=torch.int64, device=device)
    result = mtp_ext.commit_(keys, values, lengths, Accepted(*[x.to(device) for x in accepted]), **options)
    assert lengths.tolist() == prefixes
    return ([x.cpu() for x in keys], [x.cpu() for x in values]), result.cpu()


def expected(caches: Caches, prefixes: list[int], paths: list[list[int]], page_table: Tensor | None = None) -> Caches:
    """A gather from the cache as it was."""

    def moved(cache: Tensor) -> Tensor:
        out = cache.clone()
        for b, (prefix, path) in enumerate(zip(prefixes, paths, strict=True)):
            for j, node in enumerate(path):
                places = []
                for row in (prefix + j, prefix + node):
                    page, place = b, row
                    if page_table is not None:
                        page, place = int(page_table[b, row // cache.shape[1]]), row % cache.shape[1]
                    places.append((page, place))
                out[places[0]] = cache[places[1]]
        return out

    return [moved(key) for key in caches[0]], [moved(value) for value in caches[1]]


@given(
    st.integers(0, 3),
    st.integers(0, 4),
    st.integers(1, 70),
    st.integers(0, 999),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_equals_a_gather(
    device: str, layers: int, batch: int, nodes: int, seed: int, dtype: torch.dtype, strided: bool
) -> None:
    """Long paths overlap with their targets."""
    prefixes = [Random(seed + b).randint(0, 20) for b in range(batch)]
    paths = random_paths(batch, nodes, seed)
    caches = caches_of(layers, batch, 20 + nodes, 2, dtype=dtype, strided=strided)
    actual, lengths = commit(caches, prefixes, accepted_of(paths, nodes), device)
    assert_same_bits(actual, expected(caches, prefixes, paths))
    assert lengths.tolist() == [prefix + len(path) for prefix, path in zip(prefixes, paths, strict=True)]


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 999), st.sampled_from([1, 3, 16]), st.booleans())
def test_equals_a_gather_from_pages(
    device: str, batch: int, nodes: int, seed: int, page_size: int, strided: bool
) -> None:
    prefixes = [Random(seed + b).randint(0, 20) for b in range(batch)]
    paths = random_paths(batch, nodes, seed)
    pages = -(-(20 + nodes) // page_size)
    table = torch.randperm(batch * pages + 2, generator=torch.Generator().manual_seed(seed))[: batch * pages]
    table = table.view(batch, pages)
    caches = caches_of(2, batch * pages + 2, page_size, 2, strided=strided)
    actual, _ = commit(caches, prefixes, accepted_of(paths, nodes), device, page_table=table)
    assert_same_bits(actual, expected(caches, prefixes, paths, table))


def test_a_chain_moves_nothing(device: str) -> None:
    caches = caches_of(2, 1, 30, 2)
    actual, lengths = commit(caches, [5], accepted_of([list(range(20))], 25), device)
    assert_same_bits(actual, caches)
    assert lengths.tolist() == [25]


def test_the_last_row_of_the_cache(device: str) -> None:
    """A path may fit where the whole tree does not: padding has no rows."""
    caches = caches_of(1, 1, 8, 1)
    actual, _ = commit(caches, [5], accepted_of([[0, 2]], 9), device)
    assert_same_bits(actual, expected(caches, [5], [[0, 2]]))


def test_threads(device: str) -> None:
    caches = caches_of(4, 2, 400, 8)
    paths = random_paths(2, 300, 1)
    with threads(1):
        one = commit(caches, [50, 7], accepted_of(paths, 300), device)
    with threads(2):
        assert_same_bits(commit(caches, [50, 7], accepted_of(paths, 300), device), one)


def test_a_cache_of_the_library(device: str) -> None:
    """What a decoding loop does: append, accept, commit, and the lengths are the new ones."""
    cache = mtp_ext.KVCache(2, 12, device=device)
    cache.add_layer(1, 16)
    rows = torch.arange(4.0, device=device).view(1, 4, 1, 1).repeat(2, 1, 1, 16)
    cache.append(0, rows, rows)
    cache.lengths = mtp_ext.commit_(
        cache.keys, cache.values, cache.lengths, Accepted(*[x.to(device) for x in accepted_of([[0, 3], [0, 1, 3]], 4)])
    )
    assert cache.lengths.tolist() == [2, 3]
    assert cache.keys[0][0, :2, 0, 0].tolist() == [0.0, 3.0]
    assert cache.values[0][1, :3, 0, 0].tolist() == [0.0, 1.0, 3.0]
