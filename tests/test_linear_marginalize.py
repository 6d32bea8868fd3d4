"""Laws of linear_marginalize and its kin: `marginalize` of the logits of hidden states, whatever the workspace."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_cases import DTYPES, LinearCase, linear_case, linear_cases
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.ops.branch_normalizers import join_normalizers
from mtp_ext.ops.vocab_head import VocabHead
from mtp_ext.reference.numbers import top_descending
from mtp_ext.testing import EPS32, assert_same_bits, assert_within_budget, peaked_logits, threads

SMALLEST = 4096


def check(case: LinearCase, device: str, packed: bool = False, **options: Any) -> Tensor:
    """Fails unless all three ops agree with the oracle; the mixture."""
    shared = {"renormalize": options["renormalize"]} if "renormalize" in options else {}
    expected, oracle, budget = case.reference(**shared), case.oracle(**shared), case.budget
    there = case.to(device)
    if packed:
        options["unembedding"] = mtp_ext.pack_linear(there.unembedding)
        budget = {"eps": EPS32}
    mixed = there.run("linear_marginalize", **options).cpu()
    assert_within_budget(mixed, expected, oracle, **budget)

    top = there.run("linear_marginalize_topk", k=min(3, case.vocab), **options)
    best = top_descending(mixed, min(3, case.vocab))
    assert_same_bits([x.cpu() for x in top], best)

    targets = torch.arange(case.rows) * 7 % case.vocab
    chosen = there.run("linear_marginalize_targets", targets=targets.to(device), **options).cpu()
    everywhere = oracle.float()
    everywhere[torch.arange(case.rows), targets] = chosen
    assert_within_budget(everywhere, expected, oracle, **budget)
    return mixed


@given(linear_cases(), st.booleans(), st.sampled_from([SMALLEST, 20_000, 48 << 20]))
def test_any_case_equals_the_oracle(device: str, case: LinearCase, renormalize: bool, workspace_bytes: int) -> None:
    least = max(SMALLEST, 4 * case.vocab)
    check(case, device, renormalize=renormalize, workspace_bytes=max(workspace_bytes, least))


@given(linear_cases())
def test_any_packed_unembedding_equals_the_oracle(device: str, case: LinearCase) -> None:
    if case.unembedding.dtype == torch.float16:
        case = replace(case, unembedding=case.unembedding.float())
    check(case, device, packed=True)


@pytest.mark.parametrize(
    ("counts", "hidden", "vocab"),
    [([8], 64, 49152), ([64], 48, 128256), ([3, 5], 16, 262144), ([270], 64, 50021), ([1500], 8, 97)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_sizes(device: str, counts: list[int], hidden: int, vocab: int, dtype: torch.dtype) -> None:
    check(linear_case(counts, hidden, vocab, dtype=dtype), device)


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 40])
def test_a_row_may_take_any_number_of_groups(device: str, groups: int) -> None:
    case = linear_case([5, 0, 40, 1], 16, 3001, bias=True)
    check(case, device, workspace_bytes=-(-46 // groups) * 4 * case.vocab)


@pytest.mark.parametrize("workspace_bytes", [SMALLEST, 1 << 20, 48 << 20])
def test_the_product_is_done_once(workspace_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = linear_case([20, 3], 16, 1001)
    done = []
    write_logits = VocabHead.write_logits

    def counted(self: VocabHead, hidden: Tensor, begin: int, end: int, out: Tensor) -> None:
        done.append(hidden.shape[0] * (end - begin))
        write_logits(self, hidden, begin, end, out)

    monkeypatch.setattr(VocabHead, "write_logits", counted)
    case.run("linear_marginalize", workspace_bytes=workspace_bytes)
    case.run("linear_marginalize_targets", targets=torch.tensor([0, 1]), workspace_bytes=workspace_bytes)
    assert sum(done) == 2 * 23 * 1001
    assert max(done) * 4 <= max(workspace_bytes, 4 * 256 * 23)


def test_what_counts_for_nothing_and_what_is_broken(device: str) -> None:
    case = linear_case([4, 0, 3, 2], 16, 301)
    case.log_probs[1] = -torch.inf
    case.hidden[1] = torch.nan  # of no weight
    case.log_probs[[7, 8]] = -torch.inf  # row 3 has no branches
    case.hidden[5, 0] = torch.nan  # row 2 is broken
    mixed = check(case, device)
    assert mixed[0].isfinite().all()
    assert (mixed[[1, 3]] == -torch.inf).all()
    assert mixed[2].isnan().all()


def test_ties_go_to_the_lower_token(device: str) -> None:
    case = linear_case([3], 16, 600)
    case.unembedding[5:590] = case.unembedding[3]
    top = case.to(device).run("linear_marginalize_topk", k=600)
    found = [token for token in top.tokens[0].tolist() if token == 3 or 5 <= token < 590]
    assert found == [3, *range(5, 590)]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty_batches(device: str, shape: tuple[int, int]) -> None:
    case = LinearCase(torch.zeros(*shape, 5), torch.zeros(7, 5), torch.zeros(shape)).to(device)
    mixed = case.run("linear_marginalize")
    assert mixed.shape == (shape[0], 7)
    assert (mixed == -torch.inf).all()
    assert (case.run("linear_marginalize_topk", k=2).tokens == -1).all()
    targets = torch.zeros(shape[0], dtype=torch.int64, device=device)
    assert (case.run("linear_marginalize_targets", targets=targets) == -torch.inf).all()


def test_any_strides(device: str) -> None:
    case = linear_case([3, 3], 16, 301, dense=True)
    wide = torch.zeros(2, 6, 40)
    wide[:, ::2, 5:21] = case.hidden
    unembedding = torch.zeros(602, 20)
    unembedding[::2, 3:19] = case.unembedding
    check(replace(case, hidden=wide[:, ::2, 5:21], unembedding=unembedding[::2, 3:19]), device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_follows_the_product_does_not_depend_on_threads(dtype: torch.dtype) -> None:
    logits = peaked_logits(9, 40_000, seed=0, dtype=dtype)
    weights, indptr = torch.randn(9), torch.tensor([0, 4, 9])
    results = []
    for count in (1, 2, 3):
        with threads(count):
            normalizers = torch.ops.mtp_ext.branch_normalizers(logits)
            results.append((normalizers.float(), torch.ops.mtp_ext.mix_branches(logits, weights, normalizers, indptr)))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e30, 1e17])
@pytest.mark.parametrize("cuts", [[301], [1, 300], [100, 0, 150, 51]])
def test_normalizers_of_parts_join_to_that_of_the_whole(device: str, shift: float, cuts: list[int]) -> None:
    logits = (peaked_logits(6, 301, seed=0) + shift).to(device)
    logits[1, :100] = -torch.inf
    logits[2] = -torch.inf
    logits[3, 7] = torch.nan
    logits[4, 300] = torch.inf
    parts = [torch.ops.mtp_ext.branch_normalizers(part) for part in logits.split(cuts, -1)]
    center, rest = join_normalizers(torch.stack(parts)).cpu().unbind(-1)
    actual = logits.cpu()[0].double() - center[0] - rest[0]
    assert_within_budget(actual, logits.cpu()[0].log_softmax(-1), logits.cpu()[0].double().log_softmax(-1))
    assert rest[2] == -torch.inf
    assert rest[[3, 4]].isnan().all()
    assert rest[[1, 5]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_known_normalizers_give_the_mixture(device: str, dtype: torch.dtype) -> None:
    logits, weights = peaked_logits(9, 5000, seed=0, dtype=dtype), torch.randn(9)
    weights[3], indptr = -torch.inf, torch.tensor([0, 2, 2, 9])
    there = [x.to(device) for x in (logits, weights, indptr)]
    mixed = torch.ops.mtp_ext.mix_branches(there[0], there[1], torch.ops.mtp_ext.branch_normalizers(there[0]), there[2])
    options = {"indptr": indptr, "renormalize": False}
    expected = reference.marginalize(logits, weights, **options)
    assert_within_budget(mixed.cpu(), expected, reference.marginalize(logits.double(), weights.double(), **options))
