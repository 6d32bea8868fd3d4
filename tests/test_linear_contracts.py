"""linear_marginalize and its kin as torch and users see them: schemas, fakes, torch.compile, refusals word for word."""

from typing import Any

import pytest
import torch
from linear_cases import LinearCase, linear_case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext.testing import assert_same_bits

OPS = ["linear_marginalize", "linear_marginalize_topk", "linear_marginalize_targets"]
CASE = linear_case([2, 0, 3], 6, 17, bias=True, softcap=5.0)
CASES = {
    "ragged": CASE,
    "dense": linear_case([2, 2], 6, 17, dtype=torch.bfloat16, dense=True),
    "empty": LinearCase(torch.zeros(0, 3, 6), torch.zeros(17, 6), torch.zeros(0, 3)),
}


def options(op: str, case: LinearCase) -> dict[str, Any]:
    targets = torch.arange(case.rows, device=case.hidden.device)
    return {"linear_marginalize_topk": {"k": 3}, "linear_marginalize_targets": {"targets": targets}}.get(op, {})


def arguments(op: str, case: LinearCase) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order."""
    shared = (case.hidden, case.unembedding, case.log_probs, case.indptr, case.bias, case.softcap)
    return *shared, None, True, 4096, None, *options(op, case).values()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck_and_fakes(device: str, op: str, case: LinearCase) -> None:
    inputs = arguments(op, case.to(device))
    overload = getattr(torch.ops.mtp_ext, op).default
    torch.library.opcheck(overload, inputs)
    actual = overload(*inputs)
    with FakeTensorMode() as mode:
        fake = overload(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs])
    for one, other in zip(*[[x] if isinstance(x, Tensor) else x for x in (actual, fake)], strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        assert one.is_contiguous()
        assert other.is_contiguous()


def test_opcheck_of_the_parts(device: str) -> None:
    logits, weights = torch.randn(5, 17, device=device), torch.randn(5, device=device)
    torch.library.opcheck(torch.ops.mtp_ext.branch_normalizers.default, (logits,))
    normalizers = torch.ops.mtp_ext.branch_normalizers(logits)
    indptr = torch.tensor([0, 2, 5], device=device)
    torch.library.opcheck(torch.ops.mtp_ext.mix_branches.default, (logits, weights, normalizers, indptr))


@pytest.mark.parametrize("case", [CASES["ragged"], CASES["dense"]], ids=["ragged", "dense"])
def test_compiles_without_a_graph_break(device: str, case: LinearCase) -> None:
    case = case.to(device)

    def program(hidden: Tensor) -> list[Any]:
        changed = LinearCase(hidden * 2.0, case.unembedding, case.log_probs, case.indptr, case.bias, case.softcap)
        return [changed.run(op, **options(op, case)) for op in OPS]

    with torch.no_grad():
        compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
        assert_same_bits(compiled(case.hidden), program(case.hidden))


H, U, W = CASE.hidden, CASE.unembedding, CASE.log_probs
REFUSALS = [
    ({"branch_hidden": H[0]}, ValueError, "branch_hidden must be [m, hidden] float32, bfloat16 or float16 on cpu, "
     "got [6] float32 on cpu"),
    ({"branch_hidden": H.double()}, TypeError, "branch_hidden must be [m, hidden] float32, bfloat16 or float16 on cpu, "
     "got [5, 6] float64 on cpu"),
    ({"unembedding": U[:, :5]}, ValueError, "unembedding must be [vocab, hidden=6] float32, bfloat16 or float16 on "
     "cpu, got [17, 5] float32 on cpu"),
    ({"unembedding": U.T.contiguous().T}, ValueError, "unembedding must be contiguous in its last dimension, got "
     "stride 17; call .contiguous() on it"),
    ({"unembedding": mtp_ext.pack_linear(U[:, :5])}, ValueError, "panels of the unembedding must be [panels=1, "
     "hidden=6, columns=32] float32 or bfloat16 on cpu, got [1, 5, 32] float32 on cpu"),
    ({"branch_log_probs": W[:4]}, ValueError, "branch_log_probs must be [m=5] float32 on cpu, got [4] float32 on cpu"),
    ({"indptr": torch.tensor([0, 3, 2, 5])}, ValueError, "indptr must ascend, got indptr[1]=3 before indptr[2]=2"),
    ({"bias": torch.zeros(16)}, ValueError, "bias must be [vocab=17] float32, bfloat16 or float16 on cpu, "
     "got [16] float32 on cpu"),
    ({"softcap": 0.0}, ValueError, "softcap must be a positive number or None, got 0.0"),
    ({"workspace_bytes": 4095}, ValueError, "workspace_bytes must be from 4096 to 4611686018427387904, got 4095"),
]  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("changes", "error", "sentence"), REFUSALS)
def test_refusals(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        CASE.run(op, **options(op, CASE), **changes)
    assert str(caught.value) == f"{op}: {sentence}"


def test_refusals_of_one_op() -> None:
    with pytest.raises(ValueError, match=r"^linear_marginalize_topk: k must be from 1 to 17, got 18$"):
        CASE.run("linear_marginalize_topk", k=18)
    with pytest.raises(ValueError, match=r"targets: targets must be \[rows=3\] int64 on cpu, got \[2\] int64 on cpu$"):
        CASE.run("linear_marginalize_targets", targets=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"_targets: targets must be from 0 to 16, got targets\[1\]=17$"):
        CASE.run("linear_marginalize_targets", targets=torch.tensor([0, 17, 0]))


@pytest.mark.parametrize("op", OPS[:2])
def test_a_workspace_holds_a_branch(op: str) -> None:
    case = linear_case([3], 6, 2000)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        case.run(op, **options(op, case), workspace_bytes=7999)
    assert str(caught.value) == f"{op}: workspace_bytes must hold the logits of one branch, 8000 bytes, got 7999"


@pytest.mark.parametrize("op", OPS[:2])
def test_no_gradient_is_no_silent_zero(op: str) -> None:
    hidden = H.clone().requires_grad_()
    result = CASE.run(op, branch_hidden=hidden, **options(op, CASE))
    with pytest.raises(RuntimeError, match=f"{op}: has no gradient"):
        (result if isinstance(result, Tensor) else result.log_probs).sum().backward()
