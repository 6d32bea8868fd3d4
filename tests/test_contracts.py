"""The ops as torch sees them: schemas, fakes, gradients, and whole programs under torch.compile."""

import shutil
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext.testing import BranchCase, assert_same_bits, dense_case, peaked_logits, ragged_case

CASES = {
    "dense": dense_case(2, 3, 17),
    "ragged": ragged_case([2, 0, 3], 17, dtype=torch.bfloat16),
    "empty": BranchCase(torch.zeros(0, 3, 17), torch.zeros(0, 3)),
}
OPS = ["marginalize", "marginalize_topk", "marginalize_targets", "joint_topk"]
DIFFERENTIABLE = ["marginalize", "marginalize_targets"]


def arguments(op: str, case: BranchCase) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order."""
    targets = torch.arange(case.rows, device=case.logits.device)
    return {
        "marginalize": (case.logits, case.log_probs, case.indptr, True),
        "marginalize_topk": (case.logits, case.log_probs, case.indptr, 4, True),
        "marginalize_targets": (case.logits, case.log_probs, targets, case.indptr, False),
        "joint_topk": (case.logits, case.log_probs, case.indptr, 4),
    }[op]


def overload(op: str) -> Any:
    return getattr(torch.ops.mtp_ext, op).default


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck(device: str, op: str, case: BranchCase) -> None:
    torch.library.opcheck(overload(op), arguments(op, case.to(device)))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
@pytest.mark.parametrize("case", [dense_case(2, 3, 17), ragged_case([2, 0, 3], 17)], ids=["dense", "ragged"])
def test_opcheck_with_gradients(device: str, op: str, case: BranchCase) -> None:
    case = case.to(device)
    leaves = BranchCase(case.logits.requires_grad_(), case.log_probs.requires_grad_(), case.indptr)
    torch.library.opcheck(overload(op), arguments(op, leaves))


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("options", [(0.9, None, 1.0, 8), (0.9, 5, 0.7, 8)])
def test_opcheck_of_select_branches(device: str, rows: int, options: tuple[Any, ...]) -> None:
    logits = peaked_logits(rows, 17, seed=0).to(device)
    torch.library.opcheck(overload("select_branches"), (logits, *options))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fakes_have_the_shape_of_the_result(device: str, op: str, case: BranchCase) -> None:
    inputs = arguments(op, case.to(device))
    actual = overload(op)(*inputs)
    with FakeTensorMode() as mode:
        fake = overload(op)(*[mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in inputs])
    for one, other in zip(*[[x] if isinstance(x, torch.Tensor) else x for x in (actual, fake)], strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        assert one.is_contiguous()
        assert other.is_contiguous()


def program(logits: torch.Tensor, branch_logits: torch.Tensor, targets: torch.Tensor) -> tuple[Any, ...]:
    """The main job, with something of torch's own before, between and after."""
    chosen = mtp_ext.select_branches(logits * 2.0, top_p=0.9, max_branches=branch_logits.shape[1])
    branch_logits = branch_logits + 1.0
    mixed = mtp_ext.marginalize(branch_logits, chosen.log_probs)
    best = mtp_ext.marginalize_topk(branch_logits, chosen.log_probs, k=3)
    pairs = mtp_ext.joint_topk(branch_logits, chosen.log_probs, k=5)
    loss = -mtp_ext.marginalize_targets(branch_logits, chosen.log_probs, targets)
    return (*chosen, -mixed, *best, *pairs, loss)


def ragged_program(case: BranchCase, targets: torch.Tensor) -> tuple[Any, ...]:
    mixed = case.run(mtp_ext.marginalize, renormalize=False)
    best = case.run(mtp_ext.marginalize_topk, k=3)
    pairs = case.run(mtp_ext.joint_topk, k=5)
    return mixed, *best, *pairs, case.run(mtp_ext.marginalize_targets, targets=targets)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(device: str, dynamic: bool) -> None:
    compiled = torch.compile(program, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows, vocab in [(2, 33), (3, 65)] if dynamic else [(2, 33)]:
        inputs = peaked_logits(rows, vocab, seed=0), peaked_logits(rows, 6, vocab, seed=1), torch.arange(rows)
        inputs = tuple(x.to(device) for x in inputs)
        assert_same_bits(compiled(*inputs), program(*inputs))


def test_compiles_ragged_branches_without_a_graph_break(device: str) -> None:
    compiled = torch.compile(ragged_program, fullgraph=True, backend="aot_eager")
    case = ragged_case([2, 0, 5], 33).to(device)
    targets = torch.arange(3, device=device)
    assert_same_bits(compiled(case, targets), ragged_program(case, targets))


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's default compiler needs a C++ compiler")
def test_compiles_with_the_default_back_end(device: str) -> None:
    inputs = peaked_logits(2, 33, seed=0), peaked_logits(2, 6, 33, seed=1), torch.arange(2)
    inputs = tuple(x.to(device) for x in inputs)
    assert_same_bits(torch.compile(program, fullgraph=True)(*inputs), program(*inputs))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
@pytest.mark.parametrize("case", [dense_case(2, 3, 17), ragged_case([2, 0, 3], 17)], ids=["dense", "ragged"])
def test_compiles_the_gradient(device: str, op: str, case: BranchCase) -> None:
    options = {} if op == "marginalize" else {"targets": torch.arange(case.rows, device=device)}

    def loss(logits: torch.Tensor, log_probs: torch.Tensor, indptr: torch.Tensor | None) -> torch.Tensor:
        out = BranchCase(logits, log_probs, indptr).run(getattr(mtp_ext, op), **options)
        return out.masked_fill(out == -torch.inf, 0.0).sum()

    case = case.to(device)
    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = case.logits.clone().requires_grad_(), case.log_probs.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(*leaves, case.indptr), leaves))
    assert_same_bits(gradients[1], gradients[0])


def test_mistakes_are_reported_while_compiling(device: str) -> None:
    compiled = torch.compile(lambda x, w: mtp_ext.marginalize_topk(x, w, k=99), fullgraph=True, backend="aot_eager")
    case = dense_case(2, 3, 17).to(device)
    with pytest.raises(Exception, match="marginalize_topk: k must be from 1 to 17, got 99"):
        compiled(case.logits, case.log_probs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_functions_without_gradients(device: str, mode: Any) -> None:
    case = dense_case(2, 3, 17).to(device)
    expected = case.run(mtp_ext.marginalize)
    leaf = BranchCase(case.logits.requires_grad_(), case.log_probs, case.indptr)
    for function in (mtp_ext.marginalize, torch.compile(mtp_ext.marginalize, fullgraph=True, backend="aot_eager")):
        with mode():
            actual = leaf.run(function)
        assert not actual.requires_grad
        assert_same_bits(actual, expected)
    assert leaf.run(mtp_ext.marginalize).requires_grad
