"""Laws of mix_layers: mixtures of layers by given weights, and their gradients."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from instruction_sets import assert_laws_hold
from laws import built_libraries, require_kernel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext import reference
from mtp_ext.libraries import Library
from mtp_ext.testing import assert_same_bits, assert_within_budget, threads

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Results = tuple[Tensor, ...]  # mixtures, the gradient of the weights, those of the layers


def random_case(
    layers: int, heads: int, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Layers [*shape] that grow with depth, as a model's do, weights as of a softmax, and a gradient of the result."""
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(shape, generator=generator).mul_(1 + i).to(dtype) for i in range(layers)]
    weights = torch.randn(heads, layers, generator=generator).mul_(3.0).softmax(-1)
    return states, weights, torch.randn(heads, *shape, generator=generator).to(dtype)


def run(function: object, layers: Sequence[Tensor], weights: Tensor, grad: Tensor, device: str = "cpu") -> Results:
    leaves = [x.to(device).detach().requires_grad_() for x in (weights, *layers)]
    out = function(leaves[1:], leaves[0])
    return tuple(x.detach().cpu() for x in (out, *torch.autograd.grad(out, leaves, grad.to(device))))


def check(layers: Sequence[Tensor], weights: Tensor, grad: Tensor, device: str) -> Results:
    """Fails unless mixtures and gradients are those of the float64 reference within the budget; returns them."""
    actual = run(mtp_ext.mix_layers, layers, weights, grad, device)
    expected = run(reference.mix_layers, layers, weights, grad)
    oracle = run(reference.mix_layers, [layer.double() for layer in layers], weights.double(), grad.double())
    for one, rounded, exact in zip(actual, expected, oracle, strict=True):
        assert one.dtype == rounded.dtype
        assert_within_budget(one, rounded, exact, scale=0.0)
    return actual


def restrided(matrix: Tensor) -> Tensor:
    """The same rows as a slice of something wider."""
    return torch.cat([matrix, matrix], -1)[:, : matrix.shape[1]]


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 9), st.integers(0, 5), st.sampled_from([1, 15, 64, 129, 576])),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 99),
)
def test_equals_the_oracle(device: str, shape: tuple[int, ...], dtype: torch.dtype, strided: bool, seed: int) -> None:
    layers, weights, grad = random_case(*shape, dtype=dtype, seed=seed)
    check([restrided(layer) for layer in layers] if strided else layers, weights, grad, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_real_size(device: str, dtype: torch.dtype) -> None:
    """SmolLM2-135M's 29 layers, at more rows than one run of the kernel holds."""
    check(*random_case(29, 4, 200, 576, dtype=dtype), device)


def test_the_reference_agrees_with_finite_differences() -> None:
    layers, weights, _ = random_case(3, 2, 2, 4)
    leaves = [x.double().requires_grad_() for x in (weights, *layers)]
    assert torch.autograd.gradcheck(lambda w, *z: reference.mix_layers(z, w), leaves)


def test_one_layer_of_weight_one_is_that_layer(device: str) -> None:
    layers, _, _ = random_case(5, 1, 2, 3, 70)
    weights = torch.eye(5)
    assert_same_bits(mtp_ext.mix_layers([x.to(device) for x in layers], weights.to(device)).cpu(), torch.stack(layers))


def test_any_leading_dimensions(device: str) -> None:
    layers, weights, grad = random_case(3, 2, 4, 5, 33)
    flat = check([layer.flatten(0, 1) for layer in layers], weights, grad.flatten(1, 2), device)
    deep = run(mtp_ext.mix_layers, layers, weights, grad, device)
    for one, other in zip(deep, flat, strict=True):
        assert_same_bits(one, other.view(one.shape))
    vector = mtp_ext.mix_layers([layer[0, :1].to(device) for layer in layers], weights.to(device)).cpu()
    assert_same_bits(vector, deep[0][:, 0, :1])


def test_only_the_gradients_that_are_asked_for(device: str) -> None:
    layers, weights, grad = (x if isinstance(x, list) else x.to(device) for x in random_case(3, 2, 4, 33))
    layers = [layer.to(device) for layer in layers]
    whole = run(mtp_ext.mix_layers, layers, weights, grad, device)
    for asked in itertools.product([False, True], repeat=4):
        if not any(asked):
            continue
        leaves = [
            x.detach().clone().requires_grad_(wanted) for x, wanted in zip((weights, *layers), asked, strict=True)
        ]
        mtp_ext.mix_layers(leaves[1:], leaves[0]).backward(grad)
        for leaf, wanted, expected in zip(leaves, asked, whole[1:], strict=True):
            assert (leaf.grad is not None) == wanted
            if wanted:
                assert_same_bits(leaf.grad.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_rows(device: str, dtype: torch.dtype) -> None:
    require_kernel("mix_layers", device)
    require_kernel("mix_layers_weights", device)
    layers, weights, grad = random_case(7, 3, 100, 576, dtype=dtype)
    with threads(1):
        one = run(mtp_ext.mix_layers, layers, weights, grad, device)
    with threads(2):
        assert_same_bits(run(mtp_ext.mix_layers, layers, weights, grad, device), one)
    mixed = mtp_ext.mix_layers([layer[7:9].to(device) for layer in layers], weights.to(device)).cpu()
    assert_same_bits(mixed, one[0][:, 7:9])


@pytest.mark.parametrize("broken", [0, 4])
def test_nan_stays_in_its_place(device: str, broken: int) -> None:
    layers, weights, grad = random_case(5, 3, 2, 70)
    layers[broken][1, 3] = torch.nan
    mixed, *_ = check(layers, weights, grad, device)
    assert mixed.isnan().sum() == 3
    assert mixed[:, 1, 3].isnan().all()


def arguments(rows: int, device: str) -> tuple[list[Tensor], Tensor]:
    layers, weights, _ = random_case(3, 2, rows, 17)
    return [layer.to(device) for layer in layers], weights.to(device)


@pytest.mark.parametrize("rows", [0, 4])
def test_opcheck(device: str, rows: int) -> None:
    layers, weights = arguments(rows, device)
    torch.library.opcheck(torch.ops.mtp_ext.mix_layers.default, (layers, weights))
    torch.library.opcheck(
        torch.ops.mtp_ext.mix_layers_weights.default, (torch.randn(2, rows, 17, device=device), layers)
    )
    with FakeTensorMode() as mode:
        fake = torch.ops.mtp_ext.mix_layers([mode.from_tensor(x) for x in layers], mode.from_tensor(weights))
    assert fake.shape == (2, rows, 17)


def test_opcheck_with_gradients(device: str) -> None:
    layers, weights = arguments(4, device)
    leaves = [layer.requires_grad_() for layer in layers]
    torch.library.opcheck(torch.ops.mtp_ext.mix_layers.default, (leaves, weights.requires_grad_()))


def test_compiles_without_a_graph_break(device: str) -> None:
    def loss(layers: list[Tensor], weights: Tensor) -> Tensor:
        return (mtp_ext.mix_layers([layer * 2.0 for layer in layers], weights.softmax(-1)) + 1.0).square().sum()

    layers, weights = arguments(4, device)
    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [x.clone().requires_grad_() for x in (weights, *layers)]
        gradients.append(torch.autograd.grad(function(leaves[1:], leaves[0]), leaves))
    assert_same_bits(gradients[1], gradients[0])


def test_refusals(device: str) -> None:
    layers, weights = arguments(4, device)
    floats = "float32, bfloat16 or float16"

    def refusal(error: type[Exception], layers: list[Tensor], weights: Tensor) -> str:
        with pytest.raises(error) as refused:
            mtp_ext.mix_layers(layers, weights)
        return str(refused.value)

    start = "mix_layers: "
    assert refusal(ValueError, [], weights[:, :0]) == f"{start}layers must hold at least one layer, got none"
    assert refusal(ValueError, layers[:2], weights) == (
        f"{start}weights must be [heads, layers=2] float32 on {device}, got [2, 3] float32 on {device}"
    )
    assert refusal(TypeError, layers, weights.double()) == (
        f"{start}weights must be [heads, layers=3] float32 on {device}, got [2, 3] float64 on {device}"
    )
    assert refusal(TypeError, [layer.double() for layer in layers], weights) == (
        f"{start}layers[0] must be [rows, hidden] {floats} on {device}, got [4, 17] float64 on {device}"
    )
    assert refusal(ValueError, [*layers[:2], layers[2][:3]], weights) == (
        f"{start}layers[2] must be [rows=4, hidden=17] float32 on {device}, got [3, 17] float32 on {device}"
    )
    assert refusal(TypeError, [layers[0], layers[1].half(), layers[2]], weights) == (
        f"{start}layers[1] must be [rows=4, hidden=17] float32 on {device}, got [4, 17] float16 on {device}"
    )
    assert refusal(ValueError, [layer.T for layer in layers], weights) == (
        f"{start}layers[0] must be contiguous in its last dimension, got stride 17; call .contiguous() on it"
    )
    with pytest.raises(RuntimeError, match="mix_layers_weights: has no gradient"):
        torch.ops.mtp_ext.mix_layers_weights(
            torch.randn(2, 4, 17, device=device, requires_grad=True), layers
        ).sum().backward()


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_each_instruction_set(library: Library) -> None:
    assert_laws_hold(
        library, *[f"test_mix_layers.py::{test}" for test in ("test_equals_the_oracle", "test_a_real_size")]
    )
