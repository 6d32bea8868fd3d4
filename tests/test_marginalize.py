"""Laws of marginalize: out[r, v] = log sum_b exp(w[r, b]) softmax(logits[r, b])[v]."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_near, run
from strategies import DTYPES, branch_cases

from mtp_ext import reference
from mtp_ext.testing import (
    BranchCase,
    assert_same_bits,
    assert_within_budget,
    dense_case,
    error_budget,
    ragged_case,
)


def check(case: BranchCase, device: str, renormalize: bool = True) -> torch.Tensor:
    """Fails unless the result equals the oracle within the budget; returns it."""
    actual = run("marginalize", case, device, renormalize=renormalize)
    expected = case.run(reference.marginalize, renormalize=renormalize)
    assert_within_budget(actual, expected, case.oracle("marginalize", renormalize=renormalize))
    return actual


@given(branch_cases(), st.booleans())
def test_equals_the_oracle(device: str, case: BranchCase, renormalize: bool) -> None:
    check(case, device, renormalize)


@pytest.mark.parametrize(
    "case",
    [
        dense_case(1, 1, 1),
        dense_case(2, 3, 49152, dtype=torch.bfloat16),
        dense_case(1, 4, 49157),  # prime
        dense_case(1, 3, 128256),
        dense_case(1, 2, 128256, dtype=torch.float16),
        dense_case(1, 2, 262144),
        dense_case(1, 2, 262144, dtype=torch.bfloat16),
        dense_case(1, 270, 1009),
        dense_case(1, 10_000, 7),
        ragged_case([3, 0, 1], 128256, dtype=torch.bfloat16),
        ragged_case([1000, 1, 3001, 0, 257], 33),
    ],
    ids=lambda case: f"{'x'.join(map(str, case.logits.shape))}-{case.logits.dtype}",
)
def test_real_sizes(device: str, case: BranchCase) -> None:
    check(case, device)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_extreme_logits(device: str, scale: float) -> None:
    """Up to +-1e4 nats apart, and as large as float32 numbers get."""
    case = dense_case(2, 5, 1031)
    spread = (case.logits / case.logits.abs().max()).mul(scale)
    check(BranchCase(spread, case.log_probs), device)
    check(BranchCase(spread + scale, case.log_probs), device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_smallest_finite_logits_are_no_infinities(device: str, dtype: torch.dtype) -> None:
    """torch.finfo(dtype).min is a common mask: such tokens stay finite, whole branches of it are uniform."""
    case = dense_case(2, 3, 67, dtype=dtype)
    case.logits[0, :, 5:] = torch.finfo(dtype).min
    case.logits[1, 1] = torch.finfo(dtype).min
    check(case, device)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("gap", [100.0, 1e4, 1e10, 1e30])
def test_branches_of_little_weight(device: str, gap: float, renormalize: bool) -> None:
    case = dense_case(2, 4, 67)
    case.log_probs[:, 2] -= gap
    case.logits[:, [0, 1, 3], 11] = -torch.inf  # only the branch of little weight speaks for this token
    check(case, device, renormalize)


def test_many_branches_of_little_weight(device: str) -> None:
    """What one branch says with weight 1 must not drown what ten thousand say with a millionth each."""
    case = dense_case(1, 10_000, 17)
    case.log_probs.fill_(-13.8)
    case.log_probs[0, 0] = 0.0
    case.logits[0, 0, 3:] = -torch.inf
    check(case, device)


@given(branch_cases(non_finite=False), st.booleans())
def test_sums_to_the_weights(device: str, case: BranchCase, renormalize: bool) -> None:
    """To one where the weights are normalized; the sum cannot be off by more than its terms."""
    options = {"renormalize": renormalize}
    actual = run("marginalize", case, device, **options)
    oracle = case.oracle("marginalize", **options)
    budget = error_budget(case.run(reference.marginalize, **options), oracle)
    mass = oracle.logsumexp(-1)
    assert_near(actual.double().logsumexp(-1), mass, budget, "the sum")
    if renormalize:
        assert_near(mass.float(), torch.zeros_like(mass), budget, "the sum")


@pytest.mark.parametrize("shift", [-8192.0, 8192.0, -(2.0**100)])
def test_only_differences_of_normalized_weights_count(device: str, shift: float) -> None:
    """However improbable the branches are as a whole: the end of a long path, or a mask as low as numbers go."""
    case = dense_case(2, 5, 513)
    log_probs = (case.log_probs * 256.0).round() / 256.0 if abs(shift) < 1e6 else torch.zeros(2, 5)
    case = BranchCase(case.logits, log_probs)  # weights to which the shift can be added without rounding
    actual = run("marginalize", BranchCase(case.logits, case.log_probs + shift), device)
    assert_within_budget(actual, case.run(reference.marginalize), case.oracle("marginalize"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_branch_is_log_softmax(device: str, dtype: torch.dtype) -> None:
    case = dense_case(3, 1, 1031, dtype=dtype)
    actual = run("marginalize", case, device)
    logits = case.logits[:, 0]
    assert_within_budget(actual, logits.float().log_softmax(-1), logits.double().log_softmax(-1))


def test_the_order_of_branches_does_not_matter(device: str) -> None:
    case = dense_case(2, 50, 513)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    oracle = case.oracle("marginalize")
    expected = case.run(reference.marginalize)
    assert_within_budget(run("marginalize", case, device), expected, oracle)
    permuted = BranchCase(case.logits[:, order], case.log_probs[:, order])
    assert_within_budget(run("marginalize", permuted, device), expected, oracle)


def test_equal_branches_are_one_branch(device: str) -> None:
    one = dense_case(2, 1, 513)
    many = BranchCase(one.logits.expand(-1, 37, -1), dense_case(2, 37, 1).log_probs)  # a branch stride of 0
    oracle = one.oracle("marginalize")
    assert_within_budget(run("marginalize", many, device), many.run(reference.marginalize), oracle)


def test_expanded_rows(device: str) -> None:
    one = dense_case(1, 5, 513)
    same = run("marginalize", BranchCase(one.logits.expand(3, -1, -1), one.log_probs.expand(3, -1)), device)
    for row in same:
        assert_same_bits(row[None], run("marginalize", one, device))


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_a_branch_of_weight_minus_infinity_counts_for_nothing(device: str, garbage: float) -> None:
    case = dense_case(2, 5, 513)
    case.log_probs[0, 2] = -torch.inf
    case.logits[0, 2] = garbage
    actual = check(case, device)
    others = [0, 1, 3, 4]
    without = run("marginalize", BranchCase(case.logits[:1, others], case.log_probs[:1, others]), device)
    assert_same_bits(actual[:1], without)


def test_rows_without_branches_are_minus_infinity(device: str) -> None:
    case = ragged_case([0, 2, 0, 1, 0], 33)
    case.log_probs[2] = -torch.inf
    actual = check(case, device)
    assert (actual[[0, 2, 3, 4]] == -torch.inf).all()
    assert actual[1].isfinite().all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda case: case.logits[1, 1].fill_(-torch.inf),
        lambda case: case.logits[1, 1, 512:].fill_(torch.nan),
        lambda case: case.logits[1, 1, :1].fill_(torch.nan),
        lambda case: case.logits[1, 1, 37:38].fill_(torch.inf),
        lambda case: case.log_probs[1, 1:2].fill_(torch.nan),
        lambda case: case.log_probs[1, 1:2].fill_(torch.inf),
    ],
)
@pytest.mark.parametrize("renormalize", [True, False])
def test_a_broken_branch_makes_its_row_nan_and_no_other(device: str, renormalize: bool, spoil) -> None:
    case = dense_case(3, 4, 8193)
    whole = run("marginalize", case, device, renormalize=renormalize)
    spoil(case)
    actual = check(case, device, renormalize)
    assert actual[1].isnan().all()
    assert_same_bits(actual[[0, 2]], whole[[0, 2]])


def test_tokens_impossible_in_every_branch_are_minus_infinity(device: str) -> None:
    case = dense_case(2, 3, 130)
    case.logits[:, :, 7::5] = -torch.inf
    case.logits[:, 0, 8::5] = -torch.inf
    actual = check(case, device)
    assert (actual[:, 7::5] == -torch.inf).all()
    assert actual[:, 8::5].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 0, 5), (2, 3, 0), (0, 0, 0)])
def test_empty_batches(device: str, shape: tuple[int, int, int]) -> None:
    rows, branches, vocab = shape
    case = BranchCase(torch.zeros(shape), torch.zeros(rows, branches))
    for form in (case, case.ragged()):
        actual = run("marginalize", form, device)
        assert actual.shape == (rows, vocab)
        assert (actual == -torch.inf).all()
