"""Gradients of linear_marginalize_targets: the reference's against finite differences, the op's against the reference's
in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_cases import LinearCase, linear_case, linear_cases
from torch import Tensor

import mtp_ext
from mtp_ext.testing import EPS32, assert_same_bits, assert_within_budget, threads

OP = "linear_marginalize_targets"
NAMES = ["hidden", "unembedding", "log_probs", "bias"]


def leaves_of(case: LinearCase) -> dict[str, Tensor]:
    given = {name: getattr(case, name) for name in NAMES}
    return {name: x.detach().clone().requires_grad_() for name, x in given.items() if x is not None}


def targets_of(case: LinearCase) -> Tensor:
    return torch.arange(case.rows, device=case.hidden.device) * 7 % case.vocab


def gradients(case: LinearCase, run: str = "run", **options: Any) -> dict[str, Tensor]:
    """Of all leaves, for one and the same gradient of every finite row."""
    leaves = leaves_of(case)
    out = getattr(replace(case, **leaves), run)(OP, targets=targets_of(case), **options)
    grad = (2.0 + torch.arange(case.rows, device=out.device).cos()).to(out.dtype).masked_fill(~out.isfinite(), 0.0)
    found = torch.autograd.grad(out, list(leaves.values()), grad, allow_unused=True)
    return {name: x.cpu() for name, x in zip(leaves, found, strict=True) if x is not None}


def check(case: LinearCase, device: str, **options: Any) -> None:
    actual = gradients(case.to(device), **options)
    shared = {"renormalize": options.get("renormalize", True)}
    double = case.map(lambda x: x if x.dtype == torch.int64 else x.double())
    expected, oracle = gradients(case, "reference", **shared), gradients(double, "reference", **shared)
    # A logit or log-probability x is rounded by eps |x|, and that much of exp(x) is lost: of sums before they cancel.
    scale = max(largest(case.oracle(**shared)), case.largest_logit)
    eps = max(EPS32, torch.finfo(case.hidden.dtype).eps, torch.finfo(case.unembedding.dtype).eps)
    for name, one in actual.items():
        assert one.dtype == getattr(case, name).dtype
        assert_within_budget(one.float(), expected[name].float(), oracle[name], scale * scale_of(name, case), eps)


def scale_of(name: str, case: LinearCase) -> float:
    """What a logit's gradient, of size 3, is multiplied by, and how often it is added up."""
    branches = case.log_probs.numel()
    return (
        3.0
        * {
            "hidden": largest(case.unembedding),
            "unembedding": largest(case.hidden) * branches**0.5,
            "log_probs": 1.0,
            "bias": branches**0.5,
        }[name]
    )


def largest(numbers: Tensor) -> float:
    return numbers[numbers.isfinite()].abs().max().item() if numbers.isfinite().any() else 0.0


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_the_reference_agrees_with_finite_differences(renormalize: bool, dense: bool) -> None:
    case = linear_case([2, 2] if dense else [2, 1, 3], 3, 5, bias=True, softcap=4.0, dense=dense)
    case = case.map(lambda x: x if x.dtype == torch.int64 else x.double())

    def function(*leaves: Tensor) -> Any:
        inputs = dict(zip(NAMES, leaves, strict=True))
        return replace(case, **inputs).reference(OP, targets=targets_of(case), renormalize=renormalize)

    assert torch.autograd.gradcheck(function, tuple(leaves_of(case).values()))


@given(linear_cases(broken=False), st.booleans())
def test_any_case_equals_the_oracle(device: str, case: LinearCase, renormalize: bool) -> None:
    check(case, device, renormalize=renormalize, workspace_bytes=4096)


@pytest.mark.parametrize("counts", [[1200, 3], [20]])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_many_chunks(device: str, counts: list[int], softcap: float | None) -> None:
    case = linear_case(counts, 16, 3001, bias=True, softcap=softcap)
    check(case, device, workspace_bytes=4096)
    check(case, device)


def test_what_counts_for_nothing_gets_no_gradient(device: str) -> None:
    case = linear_case([4, 0, 3], 8, 65)
    case.log_probs[1] = -torch.inf
    case.hidden[1] = torch.nan
    case.log_probs[4:] = -torch.inf
    found = gradients(case.to(device))
    for name in ("hidden", "log_probs"):
        assert (found[name][[1, 4, 5, 6]] == 0.0).all()
        assert (found[name][[0, 2, 3]] != 0.0).any()
    assert found["unembedding"].isfinite().all()


def test_a_packed_unembedding_passes_the_gradient_on(device: str) -> None:
    case = linear_case([4, 3], 8, 65)
    hidden = case.hidden.to(device).requires_grad_()
    there = replace(case.to(device), hidden=hidden)
    out = there.run(OP, targets=targets_of(there), unembedding=mtp_ext.pack_linear(case.unembedding).to(device))
    out.sum().backward()
    plain = torch.autograd.grad(there.run(OP, targets=targets_of(there)).sum(), hidden)[0]
    assert_within_budget(hidden.grad.cpu(), plain.cpu(), plain.cpu().double(), scale=largest(case.unembedding))


def test_only_what_is_asked_for_is_computed(device: str) -> None:
    case = linear_case([4, 3], 8, 65, bias=True).to(device)
    every = gradients(case)
    for name in NAMES:
        leaf = getattr(case, name).clone().requires_grad_()
        out = replace(case, **{name: leaf}).run(OP, targets=targets_of(case))
        found = torch.autograd.grad(out, leaf, 2.0 + torch.arange(case.rows, device=device).cos())[0]
        assert_same_bits(found.cpu(), every[name])


def test_opcheck_and_compile(device: str) -> None:
    case = linear_case([2, 0, 3], 6, 17, bias=True, softcap=5.0).to(device)
    leaves = leaves_of(case)
    inputs = (leaves["hidden"], leaves["unembedding"], leaves["log_probs"], case.indptr, leaves["bias"], 5.0)
    torch.library.opcheck(getattr(torch.ops.mtp_ext, OP).default, (*inputs, None, True, 4096, None, targets_of(case)))

    def loss(hidden: Tensor) -> Tensor:
        out = replace(case, hidden=hidden * 2.0).run(OP, targets=targets_of(case))
        return out[[0, 2]].sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(function(leaves["hidden"]), leaves["hidden"])[0] for function in (loss, compiled)]
    assert_same_bits(found[1], found[0])


def test_threads_change_nothing_but_the_product() -> None:
    case = linear_case([9, 4], 16, 300)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(gradients(case)["log_probs"])
    assert_within_budget(results[1], results[0], results[0].double())
