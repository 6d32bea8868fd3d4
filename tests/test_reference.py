"""The references against the formulas they stand for, in float64, and the budget that is drawn from them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import branch_cases

from mtp_ext import reference
from mtp_ext.testing import (
    BranchCase,
    assert_same_bits,
    assert_within_budget,
    dense_case,
    peaked_logits,
    ragged_case,
)


def mixture(case: BranchCase, renormalize: bool) -> torch.Tensor:
    """[rows, vocab]: probabilities, added up one branch after another."""
    bounds = torch.arange(case.rows + 1) * case.log_probs.shape[-1] if case.indptr is None else case.indptr
    logits, weights = case.logits.reshape(-1, case.vocab), case.log_probs.reshape(-1).exp()
    rows = []
    for begin, end in pairwise(bounds.tolist()):
        total = torch.zeros(case.vocab, dtype=torch.float64)
        for branch in range(begin, end):
            probabilities = logits[branch].exp() / logits[branch].exp().sum()
            total += weights[branch] * probabilities
        rows.append(total / weights[begin:end].sum() if renormalize else total)
    return torch.stack(rows)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("case", [dense_case(3, 5, 33), ragged_case([2, 1, 7], 33)])
def test_marginalize_is_a_mixture(case: BranchCase, renormalize: bool) -> None:
    actual = case.oracle("marginalize", renormalize=renormalize)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual.exp(), mixture(case.double(), renormalize))


def test_targets_and_topk_are_read_off_the_mixture() -> None:
    case = dense_case(3, 5, 33).double()
    whole = case.run(reference.marginalize)
    targets = torch.tensor([3, 0, 32])
    assert_same_bits(case.run(reference.marginalize_targets, targets=targets), whole[torch.arange(3), targets])
    log_probs, tokens = case.run(reference.marginalize_topk, k=4)
    assert_same_bits((log_probs, tokens), tuple(whole.topk(4)))


def test_joint_topk_by_enumeration() -> None:
    case = ragged_case([2, 3], 5).double()
    bounds = case.indptr.tolist()
    log_probs, branches, tokens = case.run(reference.joint_topk, k=16)
    for row, (begin, end) in enumerate(pairwise(bounds)):
        joint = case.log_probs[begin:end, None] + case.logits[begin:end].log_softmax(-1)
        pairs = sorted((-joint[b, v].item(), b, v) for b in range(end - begin) for v in range(5))
        pairs += [(torch.inf, -1, -1)] * 16
        for place in range(16):
            value, branch, token = pairs[place]
            assert (branches[row, place], tokens[row, place]) == (branch, token)
            torch.testing.assert_close(log_probs[row, place].item(), -value)


def test_select_branches_by_enumeration() -> None:
    logits = peaked_logits(4, 50, seed=0).double()
    tokens, log_probs, counts, dropped = reference.select_branches(logits, 0.9, None, 2.0, 30)
    for row in range(4):
        probabilities = (logits[row] / 2.0).softmax(-1)
        order = sorted(range(50), key=lambda token: (-probabilities[token].item(), token))
        kept, mass = 0, 0.0
        while mass < 0.9 and kept < 30:
            mass += probabilities[order[kept]].item()
            kept += 1
        assert counts[row] == kept
        assert tokens[row].tolist() == order[:kept] + [-1] * (30 - kept)
        torch.testing.assert_close(log_probs[row, :kept], probabilities[order[:kept]].log())
        torch.testing.assert_close(dropped[row].item(), 1.0 - mass)


@given(branch_cases())
def test_dense_equals_ragged(case: BranchCase) -> None:
    if case.indptr is None:
        assert_same_bits(case.ragged().oracle("marginalize"), case.oracle("marginalize"))


def test_16_bit_numbers_are_computed_in_float32() -> None:
    case = dense_case(2, 3, 33, dtype=torch.bfloat16)
    as_float32 = BranchCase(case.logits.float(), case.log_probs)
    assert_same_bits(case.run(reference.marginalize), as_float32.run(reference.marginalize))


def test_the_budget_refuses_one_long_float32_sum() -> None:
    """A normalizer added up in one float32 variable is over the budget; one added up in blocks of 512 is not."""
    logits = peaked_logits(1, 128_256, seed=3)
    oracle, expected = logits.double().log_softmax(-1), logits.log_softmax(-1)
    largest = logits.amax(-1, keepdim=True)
    terms = (logits - largest).exp()
    running = running_sum(terms)
    blocks = running_sum(torch.nn.functional.pad(terms, (0, -128_256 % 512)).reshape(-1, 512)).sum()
    assert_within_budget(logits - largest - blocks.log(), expected, oracle)
    with pytest.raises(AssertionError, match="over the budget"):
        assert_within_budget(logits - largest - running.log(), expected, oracle)


def running_sum(terms: torch.Tensor) -> torch.Tensor:
    """Along the last dimension, truly in float32: torch's own cumsum adds up in float64 on a CPU."""
    return torch.from_numpy(np.add.accumulate(terms.numpy(), axis=-1, dtype=np.float32)[..., -1])


@pytest.mark.parametrize("wrong", [0.0, torch.nan, torch.inf])
def test_the_budget_refuses_other_infinities(wrong: float) -> None:
    oracle = torch.tensor([[0.0, -torch.inf]]).double()
    actual = torch.tensor([[0.0, wrong]])
    with pytest.raises(AssertionError, match="wrongly finite or not"):
        assert_within_budget(actual, oracle.float(), oracle)
