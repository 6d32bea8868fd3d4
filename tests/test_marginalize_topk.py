"""Laws of marginalize_topk: the k most probable tokens of marginalize."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_top, require_kernel, run
from strategies import branch_cases
from topk_cases import over_real_sizes

import mtp_ext
from mtp_ext import reference
from mtp_ext.reference.numbers import top_descending
from mtp_ext.testing import BranchCase, assert_same_bits, dense_case, ragged_case


def check(case: BranchCase, device: str, k: int, renormalize: bool = True) -> mtp_ext.TopTokens:
    """Fails unless the result is the top k of the oracle within the budget; returns it."""
    actual = run("marginalize_topk", case, device, k=k, renormalize=renormalize)
    assert actual.log_probs.shape == actual.tokens.shape == (case.rows, k)
    expected = case.run(reference.marginalize, renormalize=renormalize)
    assert_top(*actual, expected, case.oracle("marginalize", renormalize=renormalize))
    return actual


@given(branch_cases(), st.booleans(), st.data())
def test_equals_the_oracle(device: str, case: BranchCase, renormalize: bool, data: st.DataObject) -> None:
    check(case, device, data.draw(st.integers(1, min(case.vocab, 40)), label="k"), renormalize)


@given(branch_cases(), st.booleans(), st.data())
def test_is_the_top_of_marginalize_bit_for_bit(
    device: str, case: BranchCase, renormalize: bool, data: st.DataObject
) -> None:
    require_kernel("marginalize_topk", device)
    k = data.draw(st.integers(1, min(case.vocab, 600)), label="k")
    actual = run("marginalize_topk", case, device, k=k, renormalize=renormalize)
    assert_same_bits(actual, top_descending(run("marginalize", case, device, renormalize=renormalize), k))


@over_real_sizes
def test_real_sizes(device: str, case: BranchCase, k: int) -> None:
    actual = check(case, device, k)
    assert_same_bits(actual, top_descending(run("marginalize", case, device), k))


@pytest.mark.parametrize("vocab", [1, 5, 33, 513, 2049])
def test_the_whole_vocabulary(device: str, vocab: int) -> None:
    case = dense_case(2, 3, vocab)
    actual = check(case, device, vocab)
    assert_same_bits(actual.tokens.sort(-1).values, torch.arange(vocab).expand(2, -1))


@pytest.mark.parametrize("k", [1, 3, 100, 4097])
def test_ties_go_to_the_lower_token(device: str, k: int) -> None:
    """Among thousands of equally probable tokens, in one row; and of two kinds of token, in another."""
    case = BranchCase(torch.zeros(2, 3, 4097), dense_case(2, 3, 1).log_probs)
    case.logits[1, :, 5::7] = 1.0
    actual = check(case, device, k)
    likely = torch.arange(5, 4097, 7)
    others = torch.tensor(sorted(set(range(4097)) - set(likely.tolist())))
    assert_same_bits(actual.tokens[0], torch.arange(k))
    assert_same_bits(actual.tokens[1], torch.cat([likely, others])[:k])


def test_the_best_may_be_best_in_no_branch(device: str) -> None:
    """A bound from single branches must not prune what many branches agree on."""
    branches = 64
    case = BranchCase(torch.zeros(1, branches, 8193), torch.zeros(1, branches))
    case.logits[0, torch.arange(branches), 100 * torch.arange(branches)] = 8.0
    case.logits[0, :, 8192] = 7.0
    assert check(case, device, 2).tokens[0, 0] == 8192


def test_short_rows_end_in_minus_one(device: str) -> None:
    case = ragged_case([2, 0, 3], 700)
    case.logits[:2, 4:] = -torch.inf
    case.logits[0, 1] = -torch.inf
    actual = check(case, device, 9)
    assert (actual.tokens[0, 4:] == -1).all()
    assert (actual.log_probs[0, 4:] == -torch.inf).all()
    assert (actual.tokens[1] == -1).all()
    assert (actual.tokens[2] >= 0).all()


def test_a_broken_branch_makes_its_row_nan_and_no_other(device: str) -> None:
    case = dense_case(3, 4, 8193)
    whole = run("marginalize_topk", case, device, k=5)
    case.logits[1, 2, 8192] = torch.nan
    actual = check(case, device, 5)
    assert actual.log_probs[1].isnan().all()
    assert (actual.tokens[1] == -1).all()
    assert_same_bits([part[[0, 2]] for part in actual], [part[[0, 2]] for part in whole])


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 0, 5)])
def test_empty_batches(device: str, shape: tuple[int, int, int]) -> None:
    rows, branches, _ = shape
    case = BranchCase(torch.zeros(shape), torch.zeros(rows, branches))
    for form in (case, case.ragged()):
        actual = run("marginalize_topk", form, device, k=3)
        assert_same_bits(actual, (torch.full((rows, 3), -torch.inf), torch.full((rows, 3), -1)))
