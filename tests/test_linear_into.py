"""`linear_into_`, the product behind `linear_marginalize`: its values, where it writes, its contract."""

from typing import Any

import pytest
import torch
from laws import require_kernel
from torch import Tensor
from torch.nn.functional import linear

import mtp_ext
from mtp_ext.ops.linear_into import linear_into_
from mtp_ext.testing import assert_same_bits, assert_within_budget, threads

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 576, 97), (9, 257, 33), (64, 64, 32), (70, 131, 1), (257, 65, 64), (3, 4099, 70), (2, 0, 5), (0, 7, 40)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def place(rows: int, columns: int, device: str) -> Tensor:
    """Where outputs go: columns in the middle of wider rows, full of NaN."""
    return torch.full((rows, columns + 5), torch.nan, device=device)[:, 2 : columns + 2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "in_features", "out_features"), SHAPES)
def test_equals_the_oracle(device: str, rows: int, in_features: int, out_features: int, dtype: torch.dtype) -> None:
    """A weight with something between its rows, of any dtype, in one piece or in panels."""
    x, bias = numbers(rows, in_features), numbers(out_features, seed=1)
    weight = (numbers(out_features, in_features + 3, seed=2) * max(in_features, 1) ** -0.5).to(dtype)[:, 1:-2]
    oracle = linear(x.double(), weight.double(), bias.double())
    float32 = linear(x, weight.float(), bias)
    terms = linear(x.abs(), weight.float().abs(), bias.abs())
    packed = mtp_ext.pack_linear(weight.float(), torch.float32).to(device)
    for given, features in ((weight.to(device), None), (packed.panels, out_features)):
        out = place(rows, out_features, device)
        linear_into_(out, x.to(device), given, bias.to(device), features)
        assert_within_budget(out.cpu(), float32, oracle, scale=terms.max().item() if rows else 0.0)
        around = torch.ones(rows, out_features + 5, dtype=torch.bool)
        around[:, 2 : out_features + 2] = False
        assert (out._base.cpu().isnan() == around).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gives_the_bits_of_skinny_linear(device: str, dtype: torch.dtype) -> None:
    """For any number of rows and threads, whatever the weight is stored in."""
    require_kernel("linear_into_", device)
    x, bias, weight = numbers(300, 150), numbers(97, seed=1), numbers(97, 150, seed=2).bfloat16().to(dtype)
    packed = mtp_ext.pack_linear(weight, dtype)
    with threads(1):
        alone = torch.cat([mtp_ext.skinny_linear(row, packed, bias) for row in x.split(1)])
    for count in (1, 2):
        with threads(count):
            for rows in (1, 3, 8, 17, 64, 255, 256, 257, 300):
                for given, features in ((weight, None), (packed.panels, 97)):
                    out = place(rows, 97, device)
                    linear_into_(out, x[:rows], given, bias, features)
                    assert_same_bits(out, alone[:rows])


@pytest.mark.parametrize(("rows", "in_features", "out_features"), SHAPES)
def test_in_bfloat16_equals_the_oracle(device: str, rows: int, in_features: int, out_features: int) -> None:
    x, weight = (
        numbers(rows, in_features).bfloat16(),
        numbers(out_features, in_features + 3, seed=2).bfloat16()[:, 1:-2],
    )
    bias = numbers(out_features, seed=1)
    oracle = linear(x.double(), weight.double(), bias.double())
    terms = linear(x.float().abs(), weight.float().abs(), bias.abs())
    packed = mtp_ext.pack_linear(weight).to(device)
    for given, features in ((weight.to(device), None), (packed.panels, out_features)):
        out = place(rows, out_features, device).bfloat16()
        linear_into_(out, x.to(device), given, bias.to(device), features)
        expected = linear(x, weight, bias.bfloat16())
        assert_within_budget(out.cpu(), expected, oracle, scale=terms.max().item() if rows else 0.0)


@pytest.mark.parametrize("in_features", [1, 63, 64, 150])
def test_in_bfloat16_a_row_depends_on_itself_alone(device: str, in_features: int) -> None:
    require_kernel("linear_into_", device)
    x, weight = numbers(300, in_features).bfloat16(), numbers(97, in_features, seed=2).bfloat16()
    whole = torch.empty(300, 97, dtype=torch.bfloat16)
    linear_into_(whole, x, weight, None, None)
    for count in (1, 2):
        with threads(count):
            for rows in (1, 3, 8, 17, 64, 255, 256, 257):
                out = torch.empty(rows, 97, dtype=torch.bfloat16)
                linear_into_(out, x[:rows], weight, None, None)
                assert_same_bits(out, whole[:rows])


@pytest.mark.parametrize("bits", [-1, 0x7FC00000, 0x7FFFFFFF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_nan_stays_one(device: str, dtype: torch.dtype, bits: int) -> None:
    """Rounding to bfloat16 must not carry it over into a number."""
    x, weight = numbers(3, 7).to(dtype).to(device), numbers(40, 7, seed=2).to(dtype).to(device)
    bias = torch.full((40,), bits, dtype=torch.int32, device=device).view(torch.float32)
    out = torch.zeros(3, 40, dtype=dtype, device=device)
    linear_into_(out, x, weight, bias, None)
    assert out.isnan().all()


def test_opcheck(device: str) -> None:
    out, x, weight, bias = (numbers(*shape).to(device) for shape in ((3, 40), (3, 7), (40, 7), (40,)))
    overload = torch.ops.mtp_ext.linear_into_.default
    torch.library.opcheck(overload, (out, x, weight, bias, None))
    torch.library.opcheck(overload, (out, x.bfloat16(), mtp_ext.pack_linear(weight).panels, None, 40))


OUT, X, W, BIAS = numbers(3, 40), numbers(3, 7), numbers(40, 7), numbers(40)
PANELS = mtp_ext.pack_linear(W).panels
REFUSALS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((OUT, X.half(), W, BIAS, None), TypeError, "x must be [rows, in] float32 or bfloat16 on cpu, "
     "got [3, 7] float16 on cpu"),
    ((OUT, X[0], W, BIAS, None), ValueError, "x must be [rows, in] float32 or bfloat16 on cpu, got [7] float32 on cpu"),
    ((OUT, X, W[:, 1:], BIAS, None), ValueError, "weight must be [out, in=7] float32, bfloat16 or float16 on cpu, "
     "got [40, 6] float32 on cpu"),
    ((OUT, X, W.double(), BIAS, None), TypeError, "weight must be [out, in=7] float32, bfloat16 or float16 on cpu, "
     "got [40, 7] float64 on cpu"),
    ((OUT, X, PANELS, BIAS, None), ValueError, "weight must be [out, in=7] float32, bfloat16 or float16 on cpu, "
     "got [2, 7, 32] float32 on cpu"),
    ((OUT, X, W, BIAS, 40), ValueError, "panels must be [panels=2, in=7, columns=32] float32 or bfloat16 on cpu, "
     "got [40, 7] float32 on cpu"),
    ((OUT, X, W, BIAS[1:], None), ValueError, "bias must be [out=40] float32 on cpu, got [39] float32 on cpu"),
    ((OUT[1:], X, W, BIAS, None), ValueError, "out must be [rows=3, out=40] float32 or bfloat16 on cpu, "
     "got [2, 40] float32 on cpu"),
    ((OUT.half(), X, W, BIAS, None), TypeError, "out must be [rows=3, out=40] float32 or bfloat16 on cpu, "
     "got [3, 40] float16 on cpu"),
    ((OUT.bfloat16(), X, W, BIAS, None), TypeError, "x must be [rows, in] bfloat16 on cpu, got [3, 7] float32 on cpu"),
    ((OUT.bfloat16(), X.bfloat16(), W, BIAS, None), TypeError, "weight must be [out, in=7] bfloat16 on cpu, "
     "got [40, 7] float32 on cpu"),
    ((OUT.bfloat16(), X, mtp_ext.pack_linear(W, torch.float32).panels, BIAS, 40), ValueError,
     "bfloat16 arithmetic needs weights that are stored in bfloat16, got float32"),
    ((OUT, X, PANELS, BIAS, 0), ValueError, "out_features must be from 1 to 2147483648, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "error", "sentence"), REFUSALS, ids=[sentence for _, _, sentence in REFUSALS])
def test_refusals(inputs: tuple[Any, ...], error: type[Exception], sentence: str) -> None:
    """The contract's, and word for word the kernel's."""
    with pytest.raises(error) as refusal:
        linear_into_(*inputs)
    assert str(refusal.value) == f"linear_into_: {sentence}"
    with pytest.raises((RuntimeError, TypeError, ValueError), match="linear_into_: ") as raw:
        torch.ops.mtp_ext.linear_into_(*inputs)
    assert sentence in str(raw.value)
