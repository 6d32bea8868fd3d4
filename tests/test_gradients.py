"""Gradients: the reference's against finite differences, the ops' against the reference's in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, branch_cases

import mtp_ext
from mtp_ext import reference
from mtp_ext.testing import BranchCase, assert_same_bits, assert_within_budget, dense_case, ragged_case

OPS = ["marginalize", "marginalize_targets"]
DENSE, RAGGED = dense_case(2, 3, 5), ragged_case([2, 0, 1, 3], 5)


def targets_of(op: str, case: BranchCase) -> dict[str, Any]:
    return {"targets": torch.arange(case.rows) * 7 % case.vocab} if op == "marginalize_targets" else {}


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("case", [DENSE, RAGGED], ids=["dense", "ragged"])
@pytest.mark.parametrize("op", OPS)
def test_the_reference_agrees_with_finite_differences(op: str, case: BranchCase, renormalize: bool) -> None:
    def function(logits: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        options = {"renormalize": renormalize, **targets_of(op, case)}
        out = BranchCase(logits, log_probs, case.indptr).run(getattr(reference, op), **options)
        return out[out.isfinite()]  # rows without branches have no gradient

    inputs = case.logits.double().requires_grad_(), case.log_probs.double().requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)


def gradients(function: Callable[..., Any], case: BranchCase, device: str, **options: Any) -> list[torch.Tensor]:
    """Of logits and weights, for one and the same gradient of every finite row of the result."""
    logits = case.logits.to(device).clone().requires_grad_()
    log_probs = case.log_probs.to(device).clone().requires_grad_()
    options = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    indptr = None if case.indptr is None else case.indptr.to(device)
    out = BranchCase(logits, log_probs, indptr).run(function, **options)
    gradient = 2.0 + torch.arange(out.shape[-1], device=device).cos() if out.dim() == 2 else torch.ones_like(out)
    out.backward(gradient.to(out.dtype).expand_as(out).masked_fill(~out.isfinite(), 0.0))
    return [logits.grad.cpu(), log_probs.grad.cpu()]


def both_references(op: str, case: BranchCase, renormalize: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The reference's gradients in float32 and in float64."""
    function, options = getattr(reference, op), {"renormalize": renormalize, **targets_of(op, case)}
    return gradients(function, case, "cpu", **options), gradients(function, case.double(), "cpu", **options)


def check(op: str, case: BranchCase, device: str, renormalize: bool) -> None:
    """Fails unless the op's gradients equal those of the float64 reference within the budget."""
    actual = gradients(getattr(mtp_ext, op), case, device, renormalize=renormalize, **targets_of(op, case))
    compare(op, case, actual, renormalize)


def compare(op: str, case: BranchCase, actual: list[torch.Tensor], renormalize: bool) -> None:
    """Gradients are differences of sums of exp(x), and rounding a log-probability x costs exp(x) eps * |x| of it."""
    scale = largest(case.oracle("marginalize", renormalize=renormalize))
    sums = both_references(op, case, renormalize=False)[1]
    for one, expected, oracle, total in zip(actual, *both_references(op, case, renormalize), sums, strict=True):
        assert one.dtype == expected.dtype
        assert_within_budget(one, expected, oracle, scale=scale * largest(total))


def largest(numbers: torch.Tensor) -> float:
    return numbers[numbers.isfinite()].abs().max().item() if numbers.isfinite().any() else 0.0


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ragged", [False, True])
def test_equals_the_oracle(device: str, op: str, renormalize: bool, dtype: torch.dtype, ragged: bool) -> None:
    case = ragged_case([2, 0, 1, 30], 1031, dtype=dtype) if ragged else dense_case(2, 5, 1031, dtype=dtype)
    check(op, case, device, renormalize)


@given(branch_cases(non_finite=False), st.sampled_from(OPS), st.booleans())
def test_any_case_equals_the_oracle(device: str, case: BranchCase, op: str, renormalize: bool) -> None:
    check(op, case, device, renormalize)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("renormalize", [True, False])
def test_what_counts_for_nothing_gets_no_gradient(device: str, op: str, renormalize: bool) -> None:
    """Dead branches, even of NaN; rows without a live branch; tokens that are impossible in every branch."""
    case = dense_case(3, 4, 65)
    case.log_probs[0, 2] = -torch.inf
    case.logits[0, 2] = torch.nan
    case.log_probs[1] = -torch.inf
    case.logits[:, :, 64] = -torch.inf
    options = {"renormalize": renormalize, **targets_of(op, case)}
    logits, log_probs = gradients(getattr(mtp_ext, op), case, device, **options)
    assert logits.isfinite().all()
    assert log_probs.isfinite().all()
    for nothing in (logits[0, 2], log_probs[0, 2], logits[1], log_probs[1], logits[:, :, 64]):
        assert (nothing == 0.0).all()
    live = [0, 1, 3]
    rest = BranchCase(case.logits[:1, live, :64], case.log_probs[:1, live])
    compare(op, rest, [logits[:1, live, :64], log_probs[:1, live]], renormalize)


@pytest.mark.parametrize("op", OPS)
def test_only_differences_of_normalized_weights_count(device: str, op: str) -> None:
    case = dense_case(2, 5, 65)
    case = BranchCase(case.logits, (case.log_probs * 256.0).round() / 256.0)  # shifted without rounding
    shifted = BranchCase(case.logits, case.log_probs - 8192.0)
    compare(op, case, gradients(getattr(mtp_ext, op), shifted, device, **targets_of(op, case)), renormalize=True)


@pytest.mark.parametrize("op", OPS)
def test_a_broken_row_spoils_no_other(device: str, op: str) -> None:
    case = dense_case(3, 4, 65)
    options = targets_of(op, case)
    whole = gradients(getattr(mtp_ext, op), case, device, **options)
    case.logits[1, 2, 64] = torch.nan
    spoiled = gradients(getattr(mtp_ext, op), case, device, **options)
    assert_same_bits([part[[0, 2]] for part in spoiled], [part[[0, 2]] for part in whole])


@pytest.mark.parametrize("op", OPS)
def test_only_what_asks_for_a_gradient_gets_one(device: str, op: str) -> None:
    case = dense_case(2, 3, 33).to(device)
    options = {name: x.to(device) for name, x in targets_of(op, case).items()}
    function = getattr(mtp_ext, op)
    logits = case.logits.clone().requires_grad_()
    BranchCase(logits, case.log_probs).run(function, **options).sum().backward()
    assert logits.grad is not None
    log_probs = case.log_probs.clone().requires_grad_()
    BranchCase(case.logits, log_probs).run(function, renormalize=False, **options).sum().backward()
    assert log_probs.grad is not None
    assert not case.run(function, **options).requires_grad
