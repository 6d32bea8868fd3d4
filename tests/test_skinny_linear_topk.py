"""Laws of skinny_linear_topk and skinny_linear_argmax: the largest of what skinny_linear gives, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_skinny_linear import STORAGES, layers, numbers, weights
from torch import Tensor

import mtp_ext
from mtp_ext.reference.numbers import top_descending
from mtp_ext.testing import assert_same_bits, threads


def check(x: Tensor, packed: mtp_ext.PackedLinear, bias: Tensor | None, k: int, arithmetic: str = "float32") -> None:
    """Fails unless the results are the top of skinny_linear's own result."""
    result = mtp_ext.skinny_linear(x, packed, bias, arithmetic=arithmetic)
    broken = (result.isnan() | result.isposinf()).any(-1, keepdim=True)
    values, tokens = top_descending(result, k)
    expected = values.masked_fill(broken, torch.nan), tokens.masked_fill(broken, -1)
    assert_same_bits(mtp_ext.skinny_linear_topk(x, packed, bias, k=k, arithmetic=arithmetic), expected)
    assert_same_bits(mtp_ext.skinny_linear_argmax(x, packed, bias, arithmetic=arithmetic), expected[1][:, 0])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 16, 65])
@pytest.mark.parametrize("k", [1, 5, 700])
def test_is_the_top_of_the_result(device: str, rows: int, k: int, storage: torch.dtype) -> None:
    packed = mtp_ext.pack_linear(weights(4099, 64), storage).to(device)
    x, bias = numbers(rows, 64).to(device), numbers(4099).to(device)
    for count in (1, 2):
        with threads(count):
            check(x, packed, bias, k)
            check(x, packed, None, k, "bfloat16" if storage == torch.bfloat16 else "float32")


@given(layers(), st.sampled_from([1, 2, 31, 10**6]))
def test_any_layer(device: str, layer: tuple[Tensor, Tensor, Tensor | None, torch.dtype], k: int) -> None:
    x, weight, bias, storage = layer
    check(x.to(device), mtp_ext.pack_linear(weight, storage).to(device), bias, min(k, len(weight)))


def test_ties_go_to_the_lower_token(device: str) -> None:
    """All outputs equal; some equal; in panels and threads of their own."""
    packed = mtp_ext.pack_linear(torch.ones(9001, 3)).to(device)
    bias = torch.zeros(9001)
    bias[[77, 4500, 8999]] = 1.0
    x = torch.ones(2, 3)
    assert mtp_ext.skinny_linear_argmax(x, packed).tolist() == [0, 0]
    assert mtp_ext.skinny_linear_topk(x, packed, bias, k=5).tokens.tolist() == [[77, 4500, 8999, 0, 1]] * 2
    check(x, packed, bias, 9001)


@pytest.mark.parametrize("column", [0, 31, 32, 4500, 9000])
def test_rows_that_are_not_numbers(device: str, column: int) -> None:
    """NaN or +inf wherever it stands spoils its row, as for verify_greedy; -inf is no token."""
    packed = mtp_ext.pack_linear(weights(9001, 8)).to(device)
    x = numbers(6, 8).to(device)
    x[2] = torch.nan
    for value in (torch.nan, torch.inf, -torch.inf):
        bias = torch.zeros(9001)
        bias[column] = value
        check(x, packed, bias, 3)
        tree = mtp_ext.TokenTree(torch.zeros(6, 1, dtype=torch.int64), torch.full((6, 1), -1))
        accepted = mtp_ext.verify_greedy(tree, mtp_ext.skinny_linear(x, packed, bias).cpu()[:, None])
        assert mtp_ext.skinny_linear_argmax(x, packed, bias).tolist() == accepted.next_tokens.tolist()
    check(x, packed, torch.full((9001,), -torch.inf), 2)
    assert mtp_ext.skinny_linear_argmax(x, packed, torch.full((9001,), -torch.inf)).tolist() == [-1] * 6


def test_leading_dimensions(device: str) -> None:
    packed, x = mtp_ext.pack_linear(weights(97, 8)).to(device), numbers(2, 3, 8).to(device)
    flat = mtp_ext.skinny_linear_topk(x.view(6, 8), packed, k=4)
    whole = mtp_ext.skinny_linear_topk(x, packed, k=4)
    assert_same_bits(whole, [part.view(2, 3, 4) for part in flat])
    assert mtp_ext.skinny_linear_argmax(x, packed).shape == (2, 3)
    assert mtp_ext.skinny_linear_argmax(x[0, 0], packed).shape == ()
