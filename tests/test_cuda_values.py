"""Values that only the device knows: kernels skip bad ones, and check() says where the first was."""

import pytest
import torch

import mtp_ext
from mtp_ext.testing import assert_same_bits, dense_case, ragged_case

LOW, HIGH = -(2**62), 2**62


def report() -> str:
    """What check() says; a second call says nothing."""
    with pytest.raises(ValueError, match=":") as caught:
        mtp_ext.check()
    mtp_ext.check()
    return str(caught.value)


@pytest.mark.parametrize(
    ("indptr", "place"),
    [
        ([1, 2, 5], 0),
        ([-1, 2, 5], 0),
        ([0, 4, 2, 5], 2),
        ([0, HIGH, 5], 2),
        ([0, LOW, 5], 1),
        ([0, 2, 4], 2),
        ([0, 2, 6], 2),
        ([0], 0),
        ([HIGH], 0),
    ],
)
@pytest.mark.parametrize("op", ["marginalize", "marginalize_topk", "marginalize_targets"])
def test_an_indptr_that_is_none_makes_every_row_nan(cuda_kernels: str, op: str, indptr: list[int], place: int) -> None:
    case = ragged_case([5], 67).to(cuda_kernels)
    rows = len(indptr) - 1
    options = {"marginalize": {}, "marginalize_topk": {"k": 3}}.get(
        op, {"targets": torch.zeros(rows, dtype=torch.int64, device=cuda_kernels)}
    )
    result = getattr(mtp_ext, op)(
        case.logits, case.log_probs, indptr=torch.tensor(indptr, device=cuda_kernels), **options
    )
    values = result if isinstance(result, torch.Tensor) else result.log_probs
    assert values.isnan().all()
    if rows > 0:  # no row, no kernel
        expected = f"{op}: indptr must start at 0, ascend and end at the number of branches, indptr[{place}] does not"
        assert report() == expected


@pytest.mark.parametrize("token", [-1, 1031, HIGH, LOW])
def test_a_target_out_of_range_makes_its_row_nan_and_no_other(cuda_kernels: str, token: int) -> None:
    case = dense_case(3, 2, 1031).to(cuda_kernels)
    targets = torch.tensor([5, 6, 7], device=cuda_kernels)
    right = mtp_ext.marginalize_targets(case.logits, case.log_probs, targets)
    mtp_ext.check()
    targets[1] = token
    actual = mtp_ext.marginalize_targets(case.logits, case.log_probs, targets)
    assert actual[1].isnan()
    assert_same_bits(actual[[0, 2]], right[[0, 2]])
    sentence = "marginalize_targets: targets must be from 0 to the vocabulary's last token, targets[1] is not"
    assert report() == sentence


def test_the_first_fault_stays(cuda_kernels: str) -> None:
    case = dense_case(1, 2, 5).to(cuda_kernels)
    for token in (9, 4, -3):
        mtp_ext.marginalize_targets(case.logits, case.log_probs, torch.tensor([token], device=cuda_kernels))
    ragged = ragged_case([2], 5).to(cuda_kernels)
    mtp_ext.marginalize(ragged.logits, ragged.log_probs, indptr=torch.tensor([0, 3], device=cuda_kernels))
    assert report().startswith("marginalize_targets: ")
