"""Laws of joint_topk: the most probable (branch, token) pairs, w[r, b] + log_softmax(logits[r, b])[v]."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_top, run
from strategies import branch_cases
from topk_cases import over_real_sizes

import mtp_ext
from mtp_ext.testing import BranchCase, assert_same_bits, dense_case, ragged_case


def all_pairs(case: BranchCase, dtype: torch.dtype) -> torch.Tensor:
    """[rows, widest * vocab]: every pair's log-probability by brute force; NaN rows wholly NaN."""
    rows, vocab = case.rows, case.vocab
    bounds = (torch.arange(rows + 1) * case.log_probs.shape[-1] if case.indptr is None else case.indptr).tolist()
    logits, weights = case.logits.reshape(-1, vocab).to(dtype), case.log_probs.reshape(-1).to(dtype)
    widest = max([end - begin for begin, end in pairwise(bounds)], default=0)
    pairs = torch.full((rows, widest, vocab), -torch.inf, dtype=dtype)
    for row in range(rows):
        for place, branch in enumerate(range(bounds[row], bounds[row + 1])):
            if weights[branch] == -torch.inf:
                continue
            pairs[row, place] = weights[branch] + logits[branch].log_softmax(-1)
            if weights[branch] == torch.inf or pairs[row, place].isnan().any():
                pairs[row] = torch.nan
                break
    return pairs.flatten(1)


def check(case: BranchCase, device: str, k: int) -> mtp_ext.TopPairs:
    """Fails unless the result is the top k of all pairs within the budget; returns it."""
    actual = run("joint_topk", case, device, k=k)
    assert actual.log_probs.shape == actual.branches.shape == actual.tokens.shape == (case.rows, k)
    flat = torch.where(actual.tokens >= 0, actual.branches * case.vocab + actual.tokens, -1)
    assert ((actual.branches == -1) == (actual.tokens == -1)).all()
    assert (actual.tokens < max(case.vocab, 1)).all()
    assert_top(actual.log_probs, flat, all_pairs(case, torch.float32), all_pairs(case, torch.float64))
    return actual


@given(branch_cases(), st.sampled_from([1, 2, 5, 40, 300]))
def test_equals_brute_force(device: str, case: BranchCase, k: int) -> None:
    check(case, device, k)


@over_real_sizes
def test_real_sizes(device: str, case: BranchCase, k: int) -> None:
    check(case, device, k)


@pytest.mark.parametrize("k", [1, 7, 40, 4097])
def test_ties_go_to_the_lower_branch_then_to_the_lower_token(device: str, k: int) -> None:
    case = BranchCase(torch.zeros(1, 5, 600), torch.zeros(1, 5))
    actual = check(case, device, k)
    count = min(k, 5 * 600)
    assert_same_bits(actual.branches[0, :count], torch.arange(count) // 600)
    assert_same_bits(actual.tokens[0, :count], torch.arange(count) % 600)


def test_ties_between_equal_branches(device: str) -> None:
    one = dense_case(1, 1, 513)
    actual = check(BranchCase(one.logits.expand(-1, 4, -1), one.log_probs.expand(-1, 4).contiguous()), device, 8)
    assert actual.branches.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    best = one.logits[0, 0].topk(2).indices.tolist()
    assert actual.tokens.tolist() == [[best[0]] * 4 + [best[1]] * 4]


def test_weights_are_taken_as_they_are(device: str) -> None:
    case = dense_case(2, 3, 33)
    heavier = BranchCase(case.logits, case.log_probs + 3.0)
    actual, shifted = check(case, device, 5), check(heavier, device, 5)
    assert_same_bits(actual[1:], shifted[1:])
    assert (shifted.log_probs > actual.log_probs).all()


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits(device: str, scale: float) -> None:
    case = dense_case(2, 5, 1031)
    spread = (case.logits / case.logits.abs().max()).mul(scale)
    check(BranchCase(spread, case.log_probs), device, 9)
    check(BranchCase(spread + scale, case.log_probs), device, 9)


@pytest.mark.parametrize("gap", [100.0, 1e4, 1e10, 1e30])
def test_branches_of_little_weight(device: str, gap: float) -> None:
    case = dense_case(2, 4, 17)
    case.log_probs[:, 2] -= gap
    check(case, device, 4 * 17)


def test_smallest_finite_logits_are_no_infinities(device: str) -> None:
    case = dense_case(2, 3, 17)
    case.logits[0, :, 5:] = torch.finfo(torch.float32).min
    case.logits[1, 1] = torch.finfo(torch.float32).min
    check(case, device, 3 * 17)


def test_short_rows_and_branch_numbers_are_local(device: str) -> None:
    case = ragged_case([2, 0, 3, 1], 4)
    case.logits[0, 1:] = -torch.inf  # branch 0 of row 0 has one possible token
    case.log_probs[2] = -torch.inf  # branch 0 of row 2 counts for nothing
    case.logits[2] = torch.nan
    actual = check(case, device, 10)
    assert (actual.tokens >= 0).sum(-1).tolist() == [5, 0, 8, 4]
    assert set(actual.branches[2, :8].tolist()) == {1, 2}
    assert set(actual.branches[3, :4].tolist()) == {0}


@pytest.mark.parametrize("k", [5, 50_000])
def test_a_broken_branch_makes_its_row_nan_and_no_other(device: str, k: int) -> None:
    """Also where k is more than the row's pairs, and wherever in the batch the row stands."""
    case = ragged_case([4, 1, 2], 8193)
    whole = run("joint_topk", case, device, k=k)
    case.logits[4, 8192] = torch.nan
    actual = check(case, device, k)
    assert actual.log_probs[1].isnan().all()
    assert (actual.branches[1] == -1).all()
    assert (actual.tokens[1] == -1).all()
    assert_same_bits([part[[0, 2]] for part in actual], [part[[0, 2]] for part in whole])


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 0, 5), (2, 3, 0)])
def test_empty_batches(device: str, shape: tuple[int, int, int]) -> None:
    rows, branches, _ = shape
    nothing = (torch.full((rows, 3), -torch.inf), torch.full((rows, 3), -1), torch.full((rows, 3), -1))
    case = BranchCase(torch.zeros(shape), torch.zeros(rows, branches))
    for form in (case, case.ragged()):
        assert_same_bits(run("joint_topk", form, device, k=3), nothing)
