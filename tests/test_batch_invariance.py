"""On one back end a result is the same bit for bit for any number of threads and any place in the batch."""

from typing import Any

import pytest
import torch
from laws import require_kernel

import mtp_ext
from mtp_ext.testing import BranchCase, assert_same_bits, dense_case, peaked_logits, ragged_case, threads

OPTIONS: dict[str, dict[str, Any]] = {
    "marginalize": {},
    "marginalize_topk": {"k": 5},
    "marginalize_targets": {},
    "joint_topk": {"k": 70},
}


def results(op: str, case: BranchCase, device: str) -> list[torch.Tensor]:
    """The result of `op` on the CPU, a tensor or a tuple as a list; targets follow from the row's place."""
    options = dict(OPTIONS[op])
    if op == "marginalize_targets":
        options["targets"] = torch.full((case.rows,), case.vocab // 2, device=device)
    result = case.to(device).run(getattr(mtp_ext, op), **options)
    return [part.cpu() for part in ([result] if isinstance(result, torch.Tensor) else result)]


def spoiled(case: BranchCase) -> BranchCase:
    """With a dead branch, a broken one and an impossible token."""
    logits, log_probs = case.logits.reshape(-1, case.vocab), case.log_probs.reshape(-1)
    log_probs[0] = -torch.inf
    logits[-1, 0] = torch.nan
    logits[:, case.vocab // 3] = -torch.inf
    return case


CASES = [
    dense_case(3, 7, 20_011),
    dense_case(5, 300, 33, dtype=torch.bfloat16),
    dense_case(40, 3, 2049, dtype=torch.float16),
    spoiled(dense_case(6, 4, 8193)),
]


@pytest.mark.parametrize("op", OPTIONS)
@pytest.mark.parametrize("case", [*CASES, ragged_case([0, 300, 1, 7, 0, 9], 8193)])
def test_threads(device: str, op: str, case: BranchCase) -> None:
    require_kernel(op, device)
    with threads(1):
        one = results(op, case, device)
    with threads(2):
        assert_same_bits(results(op, case, device), one)


@pytest.mark.parametrize("op", OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_place_and_form(device: str, op: str, case: BranchCase) -> None:
    """A row alone is the row in its batch, backwards or forwards, and dense is ragged."""
    require_kernel(op, device)
    batch = results(op, case, device)
    ragged = case.ragged()
    assert_same_bits(results(op, ragged, device), batch)
    backwards = results(op, BranchCase(case.logits.flip(0), case.log_probs.flip(0)), device)
    assert_same_bits([part.flip(0) for part in backwards], batch)
    for row in range(case.rows):
        expected = [part[row : row + 1] for part in batch]
        assert_same_bits(results(op, case.row(row), device), expected)
        assert_same_bits(results(op, ragged.row(row), device), expected)


@pytest.mark.parametrize("op", OPTIONS)
def test_place_in_a_ragged_batch(device: str, op: str) -> None:
    require_kernel(op, device)
    case = spoiled(ragged_case([2, 700, 0, 1, 40], 4099))
    batch = results(op, case, device)
    for row in range(case.rows):
        assert_same_bits(results(op, case.row(row), device), [part[row : row + 1] for part in batch])


@pytest.mark.parametrize("op", OPTIONS)
def test_strides(device: str, op: str) -> None:
    """Logits that are a slice of something larger, and branches that lie rows apart."""
    require_kernel(op, device)
    case = dense_case(3, 7, 2049)
    wide = torch.full((8, 4, 2060), torch.nan)
    logits = wide[1:, :3, 5:2054].transpose(0, 1)
    logits.copy_(case.logits)
    log_probs = torch.full((3, 9), torch.nan)[:, 1:8]
    log_probs.copy_(case.log_probs)
    assert_same_bits(results(op, BranchCase(logits, log_probs), device), results(op, case, device))


def test_select_branches(device: str) -> None:
    require_kernel("select_branches", device)
    logits = peaked_logits(40, 20_011, seed=1)
    logits[3] = -torch.inf
    with threads(1):
        one = mtp_ext.select_branches(logits.to(device))
    with threads(2):
        assert_same_bits(mtp_ext.select_branches(logits.to(device)), one)
    for row in range(len(logits)):
        alone = mtp_ext.select_branches(logits[row : row + 1].to(device))
        assert_same_bits(alone, [part[row : row + 1] for part in one])
