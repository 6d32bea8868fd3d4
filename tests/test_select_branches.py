"""Laws of select_branches: the fewest most probable tokens whose probabilities add up to top_p."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_near
from strategies import SCALES, SHIFTS, branch_cases

import mtp_ext
from mtp_ext import Branches
from mtp_ext.testing import (
    EPS32,
    BranchCase,
    assert_same_bits,
    error_budget,
    has_kernel,
    peaked_logits,
    threads,
)


def select(logits: torch.Tensor, device: str, **options) -> Branches:
    return Branches(*[part.cpu() for part in mtp_ext.select_branches(logits.to(device), **options)])


def check(
    logits: torch.Tensor,
    device: str,
    *,
    top_p: float = 0.99,
    top_k: int | None = None,
    temperature: float = 1.0,
    max_branches: int = 1024,
) -> Branches:
    """Fails unless each row is the nucleus of the float64 distribution, within the budget; returns it.

    The number of tokens may differ from that of exact arithmetic only where the mass of the tokens kept, or of
    all but the last of them, is within rounding of top_p: `check_mass` says how near that is.
    """
    options = {"top_p": top_p, "top_k": top_k, "temperature": temperature, "max_branches": max_branches}
    actual = select(logits, device, **options)
    rows = len(logits)
    width = max_branches if top_k is None else top_k
    assert actual.tokens.shape == actual.log_probs.shape == (rows, width)
    assert actual.counts.shape == actual.dropped_mass.shape == (rows,)
    oracle = (logits.double() / temperature).log_softmax(-1)
    rounded = (logits.float() / temperature).log_softmax(-1)
    for row in range(rows):
        tokens, log_probs = actual.tokens[row], actual.log_probs[row]
        count, dropped = int(actual.counts[row]), actual.dropped_mass[row]
        assert (tokens[count:] == -1).all()
        assert (log_probs[count:] == -torch.inf).all()
        if oracle[row].isnan().any():
            assert count == 1
            assert tokens[0] == -1
            assert log_probs[0].isnan()
            assert dropped.isnan()
            continue
        kept, log_probs = tokens[:count], log_probs[:count]
        budget = error_budget(rounded[row], oracle[row])
        assert_near(log_probs, oracle[row][kept], budget, "a log-probability")
        check_order(logits[row], oracle[row], kept, budget)
        check_mass(rounded[row], oracle[row], kept, top_p, width, dropped)
    return actual


def check_order(logits: torch.Tensor, oracle: torch.Tensor, kept: torch.Tensor, budget: float) -> None:
    """The most probable tokens, in order, but for rounding; among equal logits, lower tokens first."""
    assert len(kept.unique()) == len(kept), "a token came twice"
    assert (oracle[kept][1:] <= oracle[kept][:-1] + budget).all(), "the most probable must come first"
    others = torch.ones(len(logits), dtype=torch.bool)
    others[kept] = False
    if len(kept) and others.any():
        assert oracle[others].max() <= oracle[kept[-1]] + budget, "a more probable token is missing"
    equal = logits[kept][1:] == logits[kept][:-1]
    assert (kept[1:] > kept[:-1])[equal].all(), "ties must go to the lower token"
    _, group, sizes = logits.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    place = torch.empty_like(group)  # of a token among those of the same logit
    place[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group[order]]
    kept_of_group = torch.bincount(group[kept], minlength=len(sizes))
    assert (place[kept] < kept_of_group[group[kept]]).all(), "a lower token of the same logit is missing"


def check_mass(
    rounded: torch.Tensor,
    oracle: torch.Tensor,
    kept: torch.Tensor,
    top_p: float,
    width: int,
    dropped: torch.Tensor,
) -> None:
    """Enough tokens, and none too many; the mass of the others.

    A mass may be off by as much, relatively, as log-probabilities may be, those of tokens whose probability is
    no normal float32 number left aside, and by the budget of a float32 sum.
    """
    order = oracle.argsort(descending=True)
    mass, mass32 = oracle[order].exp().cumsum(-1), rounded[order].exp().cumsum(-1)
    counts = oracle.exp() >= torch.finfo(torch.float32).tiny
    budget = error_budget(rounded[counts], oracle[counts]) + error_budget(mass32, mass)
    count, most = len(kept), min(width, int((oracle.float() > -torch.inf).sum()))
    mass = torch.cat([torch.zeros(1), oracle[kept].exp()]).cumsum(-1)
    assert abs(dropped.item() - (1.0 - mass[-1].item())) <= budget
    assert dropped >= 0.0
    if top_p == 1.0:
        assert count == most
        return
    assert 1 <= count <= most
    assert mass[-2] < top_p + budget, "more tokens than needed"
    assert count == most or mass[-1] >= top_p - budget, "too few tokens"


@st.composite
def rows_of_logits(draw: st.DrawFn) -> torch.Tensor:
    case = draw(branch_cases())
    if case.indptr is None:
        return case.logits[0] if case.rows else torch.zeros(0, case.vocab)
    return case.logits


@given(
    rows_of_logits(),
    st.sampled_from([0.99, 0.9, 0.5, 1e-6, 0.999999, 1.0]),
    st.sampled_from([None, None, 1, 3, 40]),
    st.sampled_from([1.0, 0.7, 3.0, 1e-3, 1e3]),
    st.sampled_from([1, 7, 1024, 10_000]),
)
def test_is_the_nucleus(
    device: str, logits: torch.Tensor, top_p: float, top_k: int | None, temperature: float, max_branches: int
) -> None:
    top_k = None if top_k is None else min(top_k, logits.shape[1])
    check(logits, device, top_p=top_p, top_k=top_k, temperature=temperature, max_branches=max_branches)


@pytest.mark.parametrize(
    ("rows", "vocab", "dtype"),
    [
        (8, 49152, torch.float32),
        (3, 128256, torch.bfloat16),
        (3, 128257, torch.float16),
        (2, 262144, torch.float32),
        (2, 131071, torch.float32),  # prime
    ],
)
def test_real_sizes(device: str, rows: int, vocab: int, dtype: torch.dtype) -> None:
    logits = peaked_logits(rows, vocab, seed=1, dtype=dtype)
    for top_p in (0.99, 0.9):
        check(logits, device, top_p=top_p, max_branches=8192)
    cut = check(logits, device)
    assert (cut.counts <= 1024).all()


def test_the_token_that_crosses_top_p_is_kept(device: str) -> None:
    logits = torch.tensor([[0.125, 0.5, 0.25, 0.125]]).log()
    counts = [int(select(logits, device, top_p=top_p).counts) for top_p in (0.01, 0.49, 0.51, 0.74, 0.76, 0.88)]
    assert counts == [1, 1, 2, 2, 3, 4]
    chosen = check(logits, device, top_p=0.76, max_branches=6)
    assert chosen.tokens.tolist() == [[1, 2, 0, -1, -1, -1]]
    assert abs(chosen.dropped_mass.item() - 0.125) <= EPS32


@pytest.mark.parametrize("vocab", [10, 1000, 50_000])
def test_ties_go_to_the_lower_token(device: str, vocab: int) -> None:
    logits = torch.zeros(2, vocab)
    logits[1, 3::7] = 2.0
    half = check(logits, device, top_p=0.5 - 0.5 / vocab, max_branches=vocab)
    assert_same_bits(half.tokens[0, : vocab // 2], torch.arange(vocab // 2))
    few = check(logits, device, max_branches=5)
    assert few.tokens[0].tolist() == [0, 1, 2, 3, 4]
    assert few.tokens[1].tolist() == [*range(3, vocab, 7), 0, 1, 2, 4][:5]


def test_top_p_of_one_keeps_every_possible_token(device: str) -> None:
    """Also those whose probability is no float32 number any more."""
    logits = torch.linspace(0.0, -1e4, 3000).repeat(2, 1)
    logits[1, ::2] = -torch.inf
    chosen = check(logits, device, top_p=1.0, max_branches=4000)
    assert chosen.counts.tolist() == [3000, 1500]
    assert (chosen.dropped_mass <= EPS32).all()


def test_a_flat_distribution(device: str) -> None:
    """The nucleus may be the whole vocabulary: far more than the first reach of any shortcut."""
    logits = peaked_logits(2, 49152, seed=5) * 0.01
    check(logits, device, max_branches=49152)
    check(logits, device, top_k=20_000)


def test_top_k_is_the_width(device: str) -> None:
    logits = peaked_logits(3, 1031, seed=2)
    chosen = check(logits, device, top_p=1.0, top_k=17, max_branches=3)
    assert chosen.tokens.shape == (3, 17)
    assert (chosen.counts == 17).all()
    assert_same_bits(chosen.tokens, logits.topk(17).indices)


def test_max_branches_shows_in_the_dropped_mass(device: str) -> None:
    logits = torch.zeros(1, 1000)
    chosen = check(logits, device, max_branches=10)
    assert abs(chosen.dropped_mass.item() - 0.99) <= 4 * EPS32


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("temperature", [1.0, 1e-6, 1e6])
def test_extreme_logits(device: str, scale: float, shift: float, temperature: float) -> None:
    check(peaked_logits(2, 2049, seed=3) * scale + shift, device, temperature=temperature)


def test_huge_logits(device: str) -> None:
    logits = peaked_logits(2, 2049, seed=3)
    check(logits / logits.abs().max() * 1e30, device)
    masked = logits.clone()
    masked[:, 100:] = torch.finfo(torch.float32).min
    check(masked, device)
    check(masked, device, top_p=1.0, max_branches=4096)


def test_broken_rows_say_so_and_spoil_no_other(device: str) -> None:
    logits = peaked_logits(6, 700, seed=6)
    whole = select(logits, device, max_branches=9)
    logits[0] = -torch.inf
    logits[2, 699] = torch.nan
    logits[4, 3] = torch.inf
    chosen = check(logits, device, max_branches=9)
    assert_same_bits([part[1::2] for part in chosen], [part[1::2] for part in whole])
    assert chosen.counts[::2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 1)])
def test_smallest_sizes(device: str, shape: tuple[int, int]) -> None:
    check(torch.zeros(shape), device, max_branches=2)


def test_rows_of_any_stride(device: str) -> None:
    wide = peaked_logits(3, 2000, seed=7)
    part = wide[:, 100:1131]
    assert_same_bits(select(part, device), select(part.contiguous(), device))
    assert_same_bits(select(wide[:1].expand(4, -1), device), select(wide[:1].repeat(4, 1), device))


def test_ragged_is_the_same_without_padding(device: str) -> None:
    logits = peaked_logits(5, 1031, seed=8)
    logits[2] = -torch.inf
    logits[2, 5] = 0.0
    chosen = mtp_ext.select_branches(logits.to(device), top_p=0.9, max_branches=64)
    tokens, log_probs, indptr = chosen.ragged()
    assert indptr.dtype == tokens.dtype == torch.int64
    assert indptr.tolist() == [0, *chosen.counts.cumsum(0).tolist()]
    for row in range(5):
        begin, end = indptr[row : row + 2].tolist()
        assert_same_bits(tokens[begin:end], chosen.tokens[row, : end - begin])
        assert_same_bits(log_probs[begin:end], chosen.log_probs[row, : end - begin])


def test_padding_counts_for_nothing(device: str) -> None:
    """The dense form, padding and all, marginalizes to what the ragged form does."""
    chosen = mtp_ext.select_branches(peaked_logits(3, 517, seed=9).to(device), top_p=0.9, max_branches=40)
    branch_logits = peaked_logits(3, 40, 517, seed=10).to(device)
    branch_logits[chosen.tokens == -1] = torch.nan
    _, log_probs, indptr = chosen.ragged()
    dense = mtp_ext.marginalize(branch_logits, chosen.log_probs)
    ragged = mtp_ext.marginalize(branch_logits[chosen.tokens != -1], log_probs, indptr)
    assert dense.isfinite().all()
    if has_kernel("marginalize", device):
        assert_same_bits(dense, ragged)
    case = BranchCase(branch_logits.cpu(), chosen.log_probs.cpu())
    budget = error_budget(case.run(mtp_ext.reference.marginalize), case.oracle("marginalize"))
    assert_near(dense.cpu(), case.oracle("marginalize"), budget, "the dense form")
    assert_near(ragged.cpu(), case.oracle("marginalize"), budget, "the ragged form")


def test_the_result_does_not_depend_on_threads(device: str) -> None:
    logits = peaked_logits(9, 20_000, seed=11)
    with threads(1):
        one = select(logits, device)
    with threads(2):
        assert_same_bits(select(logits, device), one)
