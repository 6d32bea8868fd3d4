"""The preallocated cache: what is appended lies where attention looks for it, and lengths say what counts."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mtp_ext import tree_attention
from mtp_ext.kv_cache import KVCache
from mtp_ext.testing import assert_same_bits

BATCH, KV_HEADS, HEAD_DIM, VALUE_DIM = 3, 2, 16, 24


def rows(nodes: int, seed: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """New keys and values of a pass."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn(BATCH, nodes, KV_HEADS, HEAD_DIM, generator=generator)
    return key.to(device), torch.randn(BATCH, nodes, KV_HEADS, VALUE_DIM, generator=generator).to(device)


def filled(device: str = "cpu") -> KVCache:
    """Two layers; requests of 5, 3 and 4 rows."""
    cache = KVCache(BATCH, 12, device=device)
    for layer in range(2):
        cache.add_layer(KV_HEADS, HEAD_DIM, VALUE_DIM)
        cache.append(layer, *rows(5, layer, device))
    cache.advance(torch.tensor([5, 3, 4], device=device))
    return cache


def test_rows_lie_behind_the_lengths(device: str) -> None:
    cache = filled(device)
    new_key, new_value = rows(4, 2, device)
    cache.append(1, new_key, new_value, torch.tensor([4, 2, 1], device=device))
    old_key, old_value = rows(5, 1, device)
    assert cache.lengths.tolist() == [5, 3, 4]
    for b, (length, count) in enumerate([(5, 4), (3, 2), (4, 1)]):
        assert_same_bits(cache.keys[1][b, : length + count], torch.cat([old_key[b, :length], new_key[b, :count]]))
        assert_same_bits(cache.values[1][b, : length + count], torch.cat([old_value[b, :length], new_value[b, :count]]))
    assert_same_bits(cache.keys[0][:, :5], rows(5, 0, device)[0])


def test_storage_is_what_attention_takes(device: str) -> None:
    cache = filled(device)
    assert cache.keys[0].shape == (BATCH, 12, KV_HEADS, HEAD_DIM)
    assert cache.values[0].shape == (BATCH, 12, KV_HEADS, VALUE_DIM)
    before = [tensor.data_ptr() for tensor in (*cache.keys, *cache.values)]
    cache.append(0, *rows(1, 3, device))
    query = torch.randn(BATCH, 1, 4, HEAD_DIM, device=device)
    out = tree_attention(query, cache.keys[0], cache.values[0], None, cache.lengths, starts=cache.starts)
    assert out.shape == (BATCH, 1, 4, VALUE_DIM)
    assert [tensor.data_ptr() for tensor in (*cache.keys, *cache.values)] == before


def test_lengths(device: str) -> None:
    cache = filled(device)
    first = cache.lengths
    cache.advance(2)
    assert cache.lengths.tolist() == [7, 5, 6]
    cache.crop(torch.tensor([7, 0, 1], device=device))
    assert cache.lengths.tolist() == [7, 0, 1]
    cache.crop(0)
    assert cache.lengths.tolist() == [0, 0, 0]
    assert first.tolist() == [5, 3, 4], "who holds the old lengths keeps them"


def test_a_request_shares_rows_and_owns_its_length(device: str) -> None:
    cache = filled(device)
    one = cache.request(1)
    new_key, new_value = rows(2, 4, device)
    one.append(0, new_key[:1], new_value[:1])
    one.advance(2)
    assert (one.batch, one.capacity, one.lengths.tolist()) == (1, 12, [5])
    assert cache.lengths.tolist() == [5, 3, 4]
    assert_same_bits(cache.keys[0][1, 3:5], new_key[0])


def test_selected_requests_are_copies(device: str) -> None:
    cache = filled(device)
    cache.starts = torch.tensor([0, 1, 2], device=device)
    chosen = cache.select(torch.tensor([2, 0, 2, 1], device=device))
    assert (chosen.batch, chosen.lengths.tolist(), chosen.starts.tolist()) == (4, [4, 5, 4, 3], [2, 0, 2, 1])
    assert_same_bits(chosen.values[1][2, :4], cache.values[1][2, :4])
    chosen.keys[0].fill_(0.0)
    assert_same_bits(cache.keys[0][:, :5], rows(5, 0, device)[0])


def test_it_says_what_it_is(device: str) -> None:
    assert repr(filled()) == "KVCache(batch=3, capacity=12, layers=2, device='cpu')"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: KVCache(0, 4), ValueError, "KVCache: batch must be from 1 to 2147483647, got 0"),
        (lambda _: KVCache(1, 2.0), TypeError, "KVCache: capacity must be an integer, got float"),
        (
            lambda cache: cache.advance(8),
            ValueError,
            "KVCache.advance: counts must be from 0 to 7, got counts[0]=8",
        ),
        (
            lambda cache: cache.advance(torch.tensor([0, -1, 0])),
            ValueError,
            "KVCache.advance: counts must be from 0 to 9, got counts[1]=-1",
        ),
        (
            lambda cache: cache.advance(torch.tensor([1, 1])),
            ValueError,
            "KVCache.advance: counts must be [batch=3] int64 on cpu, got [2] int64 on cpu",
        ),
        (
            lambda cache: cache.crop(torch.tensor([5, 3, 5])),
            ValueError,
            "KVCache.crop: lengths must be from 0 to 4, got lengths[2]=5",
        ),
        (
            lambda cache: cache.append(0, *rows(9, 0)),
            ValueError,
            "append_: the cache must hold prefix and nodes, got capacity 12 for prefix_lengths[0]=5 and 9 nodes",
        ),
        (lambda cache: cache.request(3), ValueError, "KVCache.request: index must be from 0 to 2, got 3"),
        (
            lambda cache: cache.select(torch.tensor(0)),
            ValueError,
            "KVCache.select: indices must be [n] int64 on cpu, got [] int64 on cpu",
        ),
    ],
)
def test_refusals(call: Callable[[KVCache], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(filled())
