"""The ops of linear layers as torch and users see them: schemas, fakes, torch.compile, refusals word for word."""

from typing import Any

import pytest
import torch
from instruction_sets import assert_laws_hold
from laws import built_libraries
from test_skinny_linear import STORAGES, numbers, weights
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext.libraries import Library
from mtp_ext.testing import assert_same_bits, has_kernel

OPS = ["skinny_linear", "skinny_linear_topk"]
PACKED = {storage: mtp_ext.pack_linear(weights(33, 7), storage) for storage in STORAGES}
X, BIAS = numbers(3, 7), numbers(33)
CONTIGUOUS, CALL = "must be contiguous in its last dimension", "call .contiguous() on it"
WANTED_X = "x must be [rows, in=7] float32 or bfloat16 on cpu"


def overload(op: str) -> Any:
    return getattr(torch.ops.mtp_ext, op).default


def arguments(op: str, device: str = "cpu", storage: torch.dtype = torch.float32, **changes: Any) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order; what is not asked about is right."""
    right = {"x": X, "panels": PACKED[storage].panels, "bias": BIAS, "in_features": 7, "out_features": 33}
    right |= {"k": 4} if op == "skinny_linear_topk" else {}
    right |= {"bfloat16_arithmetic": False} | changes
    return tuple(x.to(device) if isinstance(x, Tensor) and x.device.type != "meta" else x for x in right.values())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "changes", [{}, {"x": X[:0]}, {"x": X.bfloat16(), "bias": None}], ids=["plain", "empty", "half"]
)
def test_opcheck_and_fakes(device: str, op: str, storage: torch.dtype, changes: dict[str, Any]) -> None:
    inputs = arguments(op, device, storage, **changes)
    torch.library.opcheck(overload(op), inputs)
    actual = overload(op)(*inputs)
    with FakeTensorMode() as mode:
        fake = overload(op)(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs])
    for one, other in zip(*[[x] if isinstance(x, Tensor) else x for x in (actual, fake)], strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        assert one.is_contiguous()
        assert other.is_contiguous()


def program(x: Tensor, packed: mtp_ext.PackedLinear, bias: Tensor) -> tuple[Tensor, ...]:
    """A layer and a head, with something of torch's own around them."""
    hidden = mtp_ext.skinny_linear(x * 2.0, packed, bias)
    top = mtp_ext.skinny_linear_topk(x, packed, k=3)
    return hidden.relu(), *top, mtp_ext.skinny_linear_argmax(x, packed, bias) + 1


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(device: str, dynamic: bool) -> None:
    compiled = torch.compile(program, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in [(3, 7), (5, 7), (2, 3, 7)]:
        inputs = numbers(*shape).to(device), PACKED[torch.bfloat16].to(device), BIAS.to(device)
        assert_same_bits(compiled(*inputs), program(*inputs))


def check(op: str, error: type[Exception], sentence: str, **changes: Any) -> None:
    """Fails unless the op, kernel or reference, and its contract refuse in these very words."""
    inputs = arguments(op, **changes)
    with pytest.raises(error) as caught:
        getattr(mtp_ext.ops, op)(*inputs)
    assert str(caught.value) == f"{op}: {sentence}"
    with pytest.raises(RuntimeError if has_kernel(op, "cpu") else error) as caught:
        overload(op)(*inputs)
    assert str(caught.value) == f"{op}: {sentence}"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"x": X[0]}, ValueError, f"{WANTED_X}, got [7] float32 on cpu"),
        ({"x": X[:, :6]}, ValueError, f"{WANTED_X}, got [3, 6] float32 on cpu"),
        ({"x": X.half()}, TypeError, f"{WANTED_X}, got [3, 7] float16 on cpu"),
        ({"x": X.double()}, TypeError, f"{WANTED_X}, got [3, 7] float64 on cpu"),
        ({"x": numbers(7, 3).t()}, ValueError, f"x {CONTIGUOUS}, got stride 3; {CALL}"),
        ({"bias": BIAS[:32]}, ValueError, "bias must be [out=33] float32 on cpu, got [32] float32 on cpu"),
        ({"bias": BIAS.bfloat16()}, TypeError, "bias must be [out=33] float32 on cpu, got [33] bfloat16 on cpu"),
        (
            {"out_features": 31},
            ValueError,
            "panels must be [panels=1, in=7, columns=32] float32 or bfloat16 on cpu, got [2, 7, 32] float32 on cpu",
        ),
        (
            {"storage": torch.bfloat16, "x": numbers(3, 9), "in_features": 9},
            ValueError,
            "panels must be [panels=2, pairs=5, columns=32, pair=2] bfloat16 on cpu, got [2, 4, 32, 2] bfloat16 on cpu",
        ),
        (
            {"panels": torch.zeros(2, 8, 32)[:, :7]},
            ValueError,
            "panels must be contiguous; call .contiguous() on it",
        ),
        ({"in_features": -1}, ValueError, "in_features must be from 0 to 2147483648, got -1"),
        ({"out_features": 0}, ValueError, "out_features must be from 1 to 2147483648, got 0"),
        (
            {"bfloat16_arithmetic": True},
            ValueError,
            "bfloat16 arithmetic needs weights that are stored in bfloat16, got float32",
        ),
    ],
)
def test_refusals(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check(op, error, sentence, **changes)


@pytest.mark.parametrize("k", [0, 34])
def test_k_out_of_range(k: int) -> None:
    check("skinny_linear_topk", ValueError, f"k must be from 1 to 33, got {k}", k=k)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: mtp_ext.skinny_linear(X, weights(33, 7)),
            TypeError,
            "skinny_linear: packed must be a PackedLinear, as pack_linear makes it, got Tensor",
        ),
        (
            lambda: mtp_ext.skinny_linear_topk(X.tolist(), PACKED[torch.float32], k=1),
            TypeError,
            "skinny_linear_topk: x must be a Tensor, got list",
        ),
        (
            lambda: mtp_ext.skinny_linear(X[0, 0], PACKED[torch.float32]),
            ValueError,
            f"skinny_linear: {WANTED_X}, got [] float32 on cpu",
        ),
        (
            lambda: mtp_ext.skinny_linear(X, PACKED[torch.float32], arithmetic="int8"),
            ValueError,
            'skinny_linear: arithmetic must be "float32" or "bfloat16", got \'int8\'',
        ),
        (
            lambda: mtp_ext.pack_linear([[1.0]]),
            TypeError,
            "pack_linear: weight must be a Tensor, got list",
        ),
        (
            lambda: mtp_ext.pack_linear(X.half()),
            TypeError,
            "pack_linear: weight must be float32 or bfloat16, got float16",
        ),
        (
            lambda: mtp_ext.pack_linear(X[0]),
            ValueError,
            "pack_linear: weight must be [out, in] with at least one output, got [7]",
        ),
        (
            lambda: mtp_ext.pack_linear(X[:0]),
            ValueError,
            "pack_linear: weight must be [out, in] with at least one output, got [0, 7]",
        ),
        (
            lambda: mtp_ext.pack_linear(X, torch.float16),
            ValueError,
            "pack_linear: storage must be None, torch.float32 or torch.bfloat16, got torch.float16",
        ),
        (
            lambda: mtp_ext.pack_linear(torch.tensor([[1.0, 0.5], [1.00390625, 2.0]]), torch.bfloat16),
            ValueError,
            "pack_linear: storage bfloat16 needs weights that are bfloat16 numbers, got weight[1, 0]=1.00390625; say "
            "weight.bfloat16() to round them",
        ),
    ],
)
def test_refusals_of_the_public_functions(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "function", [mtp_ext.skinny_linear, lambda x, packed: mtp_ext.skinny_linear_topk(x, packed, k=2)[0]]
)
def test_there_is_no_gradient_and_it_says_so(function: Any) -> None:
    out = function(X.clone().requires_grad_(), PACKED[torch.float32])
    with pytest.raises(RuntimeError) as caught:
        out.sum().backward()
    assert str(caught.value).endswith(": has no gradient; call it under torch.no_grad() or detach its inputs")


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_every_instruction_set_obeys_the_laws(library: Library) -> None:
    """Those of test_skinny_linear.py, in a process that is told to use it."""
    assert_laws_hold(library, "test_skinny_linear.py")
