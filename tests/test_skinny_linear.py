"""Laws of skinny_linear: the product that float64 gives, each row by itself, the same for both storages."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import require_kernel
from torch import Tensor
from torch.nn.functional import linear

import mtp_ext
from mtp_ext.testing import assert_same_bits, assert_within_budget, threads

STORAGES = [torch.float32, torch.bfloat16]
# One output, a panel of 32 and what lies beside it; one input, pairs, a block of sums and what lies beside it.
OUTS = [1, 2, 15, 16, 31, 32, 33, 97, 192]
INS = [1, 2, 3, 16, 31, 255, 256, 257, 513, 576]
ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130]


def weights(out_features: int, in_features: int, *, seed: int = 0, exact: bool = True) -> Tensor:
    """A weight as layers have them; `exact`: bfloat16 numbers, in float32."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) * max(in_features, 1) ** -0.5
    return weight.bfloat16().float() if exact else weight


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(
    x: Tensor, weight: Tensor, bias: Tensor | None, storage: torch.dtype, device: str, scale: float = 0.0
) -> None:
    """Fails unless the result equals float64's within the budget."""
    packed = mtp_ext.pack_linear(weight.to(device), storage)
    out = mtp_ext.skinny_linear(x.to(device), packed, None if bias is None else bias.to(device)).cpu()
    assert out.dtype == torch.float32
    oracle = linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_within_budget(out, linear(x.float(), weight.float(), bias), oracle, scale=scale)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("out_features", "in_features"), [(97, 257), (1, 576), (192, 1), (33, 31)])
def test_equals_the_oracle(device: str, out_features: int, in_features: int, rows: int, storage: torch.dtype) -> None:
    check(numbers(rows, in_features), weights(out_features, in_features), numbers(out_features), storage, device)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("out_features", "in_features"), [(576, 1536), (49152, 576), (64, 11008), (1031, 4099)])
def test_real_sizes_equal_the_oracle(device: str, out_features: int, in_features: int, storage: torch.dtype) -> None:
    """Long sums too: one running float32 sum over 11,008 products fails."""
    check(numbers(3, in_features), weights(out_features, in_features), None, storage, device)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype]:
    """x of any strides with a contiguous last dimension, weight, bias, storage."""
    rows, out_features, in_features = (draw(st.sampled_from(sizes)) for sizes in (ROWS, OUTS, INS))
    seed = draw(st.integers(0, 99))
    storage = draw(st.sampled_from(STORAGES))
    x = numbers(rows, in_features + 3, seed=seed)[:, 2 : 2 + in_features]
    if draw(st.booleans()):
        x = x.bfloat16()
    if rows and draw(st.booleans()):
        x = x[:1].expand(rows, in_features)
    weight = weights(out_features, in_features, seed=seed, exact=storage == torch.bfloat16)
    return x, weight, numbers(out_features, seed=seed) if draw(st.booleans()) else None, storage


@given(layers())
def test_any_layer_equals_the_oracle(device: str, layer: tuple[Tensor, Tensor, Tensor | None, torch.dtype]) -> None:
    """With one or two outputs the reference may be right by luck: what is rounded is the size of the terms' sum."""
    x, weight, _, _ = layer
    terms = linear(x.float().abs(), weight.abs())
    check(*layer, device, scale=terms.max().item() if len(x) else 0.0)


@pytest.mark.parametrize("rows", [1, 4, 8, 16, 64])
@pytest.mark.parametrize(("out_features", "in_features"), [(97, 257), (576, 1536), (33, 31)])
def test_both_storages_give_the_same_bits(device: str, out_features: int, in_features: int, rows: int) -> None:
    require_kernel("skinny_linear", device)
    weight, x, bias = weights(out_features, in_features), numbers(rows, in_features), numbers(out_features)
    results = [mtp_ext.skinny_linear(x, mtp_ext.pack_linear(weight, storage), bias) for storage in STORAGES]
    assert_same_bits(*results)


@pytest.mark.parametrize(
    ("storage", "arithmetic"),
    [(torch.float32, "float32"), (torch.bfloat16, "float32"), (torch.bfloat16, "bfloat16")],
)
@pytest.mark.parametrize(("out_features", "in_features"), [(97, 257), (33, 31), (192, 1536)])
def test_a_row_depends_on_itself_alone(
    device: str, out_features: int, in_features: int, storage: torch.dtype, arithmetic: str
) -> None:
    """Whatever the other rows are, however many there are, for one thread and for two."""
    require_kernel("skinny_linear", device)
    x, bias = numbers(130, in_features), numbers(out_features)
    packed = mtp_ext.pack_linear(weights(out_features, in_features), storage)

    def run(x: Tensor) -> Tensor:
        return mtp_ext.skinny_linear(x, packed, bias, arithmetic=arithmetic)

    with threads(1):
        alone = torch.cat([run(x[i : i + 1]) for i in range(len(x))])
    spoiled = x.clone()
    spoiled[1::2] = torch.nan
    for count in (1, 2):
        with threads(count):
            for rows in [*range(65), len(x)]:
                assert_same_bits(run(x[:rows]), alone[:rows])
            assert_same_bits(run(x.flip(0)), alone.flip(0))
            assert_same_bits(run(spoiled)[::2], alone[::2])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_nan_and_infinity_go_where_the_product_takes_them(device: str, rows: int, storage: torch.dtype) -> None:
    """Nothing else is spoiled: what fills the panels beyond the weight never meets x."""
    x, weight = numbers(rows, 257), weights(97, 257)
    x[0, 256], weight[5, 3], weight[96, 255] = torch.inf, torch.nan, -torch.inf
    check(x, weight, None, storage, device)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", [(257,), (2, 3, 257), (0, 4, 257), (2, 1, 2, 257)])
def test_leading_dimensions(device: str, shape: tuple[int, ...], storage: torch.dtype) -> None:
    packed, x = mtp_ext.pack_linear(weights(97, 257), storage).to(device), numbers(*shape).to(device)
    flat = mtp_ext.skinny_linear(x.reshape(-1, 257), packed)
    assert_same_bits(mtp_ext.skinny_linear(x, packed), flat.view(*shape[:-1], 97))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("out_features", "in_features"), [(1, 1), (31, 2), (33, 7), (64, 3), (5, 0)])
def test_unpacking_gives_the_weight_back(out_features: int, in_features: int, storage: torch.dtype) -> None:
    weight = weights(out_features, in_features)
    packed = mtp_ext.pack_linear(weight, storage)
    assert packed.storage == storage
    for one in (packed, pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed), packed.to("cpu")):
        assert_same_bits(one.unpack().float(), weight)


def test_storage_is_bfloat16_where_that_loses_nothing() -> None:
    exact, inexact = weights(33, 7), weights(33, 7, exact=False)
    assert mtp_ext.pack_linear(exact).storage == torch.bfloat16
    assert mtp_ext.pack_linear(exact.bfloat16()).storage == torch.bfloat16
    assert mtp_ext.pack_linear(exact.bfloat16(), torch.float32).storage == torch.float32
    assert mtp_ext.pack_linear(inexact).storage == torch.float32
    exact[3, 4] = 3.4e38  # a bfloat16 would be infinity
    assert mtp_ext.pack_linear(exact).storage == torch.float32
    exact[3, 4] = torch.nan
    assert mtp_ext.pack_linear(exact).storage == torch.bfloat16


@pytest.mark.parametrize("rows", [0, 1, 3, 16, 65])
@pytest.mark.parametrize(("out_features", "in_features"), [(97, 257), (192, 576)])
def test_bfloat16_arithmetic_rounds_x_alone(device: str, out_features: int, in_features: int, rows: int) -> None:
    weight, x, bias = weights(out_features, in_features), numbers(rows, in_features), numbers(out_features)
    packed = mtp_ext.pack_linear(weight.to(device))
    out = mtp_ext.skinny_linear(x.to(device), packed, bias.to(device), arithmetic="bfloat16").cpu()
    x = x.bfloat16()
    oracle = linear(x.double(), weight.double(), bias.double())
    assert_within_budget(out, linear(x.float(), weight, bias), oracle, scale=0.0)
