"""Laws of marginalize_targets: what marginalize says of one token a row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import run
from strategies import branch_cases

from mtp_ext import reference
from mtp_ext.testing import BranchCase, assert_within_budget, dense_case, ragged_case


def check(case: BranchCase, device: str, targets: torch.Tensor, renormalize: bool = True) -> torch.Tensor:
    """Fails unless the result is the oracle's at the targets, within the budget of the whole distribution."""
    actual = run("marginalize_targets", case, device, targets=targets, renormalize=renormalize)
    assert actual.shape == (case.rows,)
    oracle = case.oracle("marginalize", renormalize=renormalize)
    expected = case.run(reference.marginalize, renormalize=renormalize)
    everywhere = oracle.float()
    everywhere[torch.arange(case.rows), targets] = actual
    assert_within_budget(everywhere, expected, oracle)
    return actual


def some_targets(case: BranchCase, seed: int = 0) -> torch.Tensor:
    return torch.randint(case.vocab, (case.rows,), generator=torch.Generator().manual_seed(seed))


@given(branch_cases(), st.booleans(), st.integers(0, 99))
def test_equals_the_oracle(device: str, case: BranchCase, renormalize: bool, seed: int) -> None:
    check(case, device, some_targets(case, seed), renormalize)


@pytest.mark.parametrize(
    "case",
    [
        dense_case(3, 4, 49152),
        dense_case(2, 2, 128256, dtype=torch.bfloat16),
        dense_case(1, 2, 262144, dtype=torch.float16),
        dense_case(1, 10_000, 7),
        dense_case(64, 3, 1031),
        ragged_case([1000, 1, 0, 257], 33),
    ],
    ids=lambda case: f"{'x'.join(map(str, case.logits.shape))}-{case.logits.dtype}",
)
def test_real_sizes(device: str, case: BranchCase) -> None:
    check(case, device, some_targets(case))


def test_every_token(device: str) -> None:
    """One row a token, so that every place in a register, a block and a chunk is asked for."""
    vocab = 8209
    one = dense_case(1, 2, vocab)
    case = BranchCase(one.logits.expand(vocab, -1, -1), one.log_probs.expand(vocab, -1))
    actual = run("marginalize_targets", case, device, targets=torch.arange(vocab))
    assert_within_budget(actual[None], one.run(reference.marginalize), one.oracle("marginalize"))


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits(device: str, scale: float) -> None:
    case = dense_case(4, 5, 1031)
    spread = (case.logits / case.logits.abs().max()).mul(scale)
    check(BranchCase(spread, case.log_probs), device, some_targets(case))
    check(BranchCase(spread + scale, case.log_probs), device, some_targets(case))


@pytest.mark.parametrize("gap", [100.0, 1e4, 1e10, 1e30])
def test_branches_of_little_weight(device: str, gap: float) -> None:
    case = dense_case(2, 4, 67)
    case.log_probs[:, 2] -= gap
    case.logits[:, [0, 1, 3], 11] = -torch.inf
    check(case, device, torch.tensor([11, 12]))


def test_smallest_finite_logits_are_no_infinities(device: str) -> None:
    case = dense_case(2, 3, 67)
    case.logits[0, :, 5:] = torch.finfo(torch.float32).min
    case.logits[1, 1] = torch.finfo(torch.float32).min
    check(case, device, torch.tensor([40, 41]))


def test_infinities_and_nan_stay_in_their_row(device: str) -> None:
    case = ragged_case([2, 0, 3, 1, 2], 700)
    case.logits[0:2, 600] = -torch.inf  # row 0: an impossible target
    case.logits[3, 699] = torch.nan  # row 2: a broken branch
    case.log_probs[5] = -torch.inf  # row 3: its only branch counts for nothing
    actual = check(case, device, torch.tensor([600, 0, 5, 5, 600]))
    assert (actual[[0, 1, 3]] == -torch.inf).all()
    assert actual[2].isnan()
    assert actual[4].isfinite()


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 0, 5)])
def test_empty_batches(device: str, shape: tuple[int, int, int]) -> None:
    rows, branches, _ = shape
    case = BranchCase(torch.zeros(shape), torch.zeros(rows, branches))
    for form in (case, case.ragged()):
        actual = run("marginalize_targets", form, device, targets=torch.zeros(rows, dtype=torch.int64))
        assert actual.shape == (rows,)
        assert (actual == -torch.inf).all()
