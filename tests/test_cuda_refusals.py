"""What CUDA refuses beside what all back ends do: devices without code, launches that no grid holds, two devices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import dense_case
from mtp_ext.testing_trees import tree_case


def _marginalize(op: str, **options: Any) -> Callable[[], object]:
    case = dense_case(2, 3, 70)
    return lambda: getattr(mtp_ext, op)(case.logits, case.log_probs, **options)


def _attention() -> object:
    case = tree_case([[-1, 0, 0]], [5])
    return mtp_ext.tree_attention(case.query, case.key, case.value, case.ancestors, case.prefix_lengths)


def _append() -> object:
    cache, new = torch.zeros(1, 9, 2, 16), torch.zeros(1, 3, 2, 16)
    return mtp_ext.append_(cache, cache.clone(), new, new.clone(), torch.tensor([2]))


def _merge() -> object:
    out, lse = torch.zeros(1, 3, 2, 16), torch.zeros(1, 3, 2)
    return mtp_ext.merge_states(out, lse, out, lse)


def _tree() -> mtp_ext.TokenTree:
    return mtp_ext.TokenTree(torch.tensor([[3, 1]]), torch.tensor([[-1, 0]]))


def _commit() -> object:
    nodes, one = torch.tensor([[0, -1]]), torch.tensor([1])
    cache = torch.zeros(1, 9, 2, 16)
    return mtp_ext.commit_([cache], [cache.clone()], torch.tensor([2]), mtp_ext.Accepted(nodes, one, one))


CALLS: dict[str, Callable[[], object]] = {
    "marginalize": _marginalize("marginalize"),
    "marginalize_topk": _marginalize("marginalize_topk", k=2),
    "marginalize_targets": _marginalize("marginalize_targets", targets=torch.tensor([1, 2])),
    "joint_topk": _marginalize("joint_topk", k=2),
    "select_branches": lambda: mtp_ext.select_branches(torch.zeros(2, 70)),
    "tree_attention": _attention,
    "append_": _append,
    "merge_states": _merge,
    "verify_greedy": lambda: mtp_ext.verify_greedy(_tree(), torch.zeros(1, 2, 70)),
    "verify_sampling": lambda: mtp_ext.verify_sampling(
        _tree(), torch.zeros(1, 2, 70), torch.zeros(1, 3), method="target_only"
    ),
    "commit_": _commit,
}


@pytest.mark.parametrize("op", CALLS)
def test_a_device_without_code_is_told_what_was_built(stand_in: Any, op: str) -> None:
    stand_in.choose_device("compute_75")
    with pytest.raises(RuntimeError) as caught:
        CALLS[op]()
    built = "sm_80, PTX of compute_80, sm_86, sm_89, sm_90, PTX of compute_90, sm_100, PTX of compute_100, sm_120"
    assert str(caught.value) == f"{op}: no kernel for compute capability 7.5; built for {built}"


@pytest.mark.parametrize("op", CALLS)
def test_then_the_next_device_is_served(stand_in: Any, op: str) -> None:
    """The refusal leaves no state behind."""
    stand_in.choose_device("compute_75")
    with pytest.raises(RuntimeError):
        CALLS[op]()
    stand_in.choose_device("compute_80")
    CALLS[op]()


def test_more_blocks_than_a_grid_holds(cuda_kernels: str) -> None:
    """2^31 nodes, which are a few bytes in memory."""
    nodes = 2**30
    new = torch.zeros(1, 1, 1, 8, device=cuda_kernels).expand(2, nodes, 1, 8)
    cache = torch.zeros(1, 1, 1, 8, device=cuda_kernels).expand(2, nodes, 1, 8)
    lengths = torch.tensor([0, 0], device=cuda_kernels)
    with pytest.raises(RuntimeError) as caught:
        torch.ops.mtp_ext.append_(cache, cache, new, new, lengths, None, None)
    assert str(caught.value) == "append_: the tensors are too large for one grid"


def test_more_branches_than_a_sum_of_weights_holds(cuda_kernels: str) -> None:
    """2^24 branches of equal weights, which would add up to zero."""
    logits = torch.zeros(1, 1, 1, device=cuda_kernels).expand(1, 2**24, 1)
    weights = torch.zeros(1, 2**24, device=cuda_kernels)
    with pytest.raises(RuntimeError) as caught:
        torch.ops.mtp_ext.marginalize(logits, weights, None, True)
    assert str(caught.value) == "marginalize: branches must be at most 16777215 on cuda, got 16777216"


@pytest.mark.parametrize("op", ["marginalize", "marginalize_topk", "marginalize_targets", "joint_topk"])
def test_tensors_on_two_devices(cuda_kernels: str, op: str) -> None:
    case = dense_case(2, 3, 70)
    logits, other = case.logits.to(cuda_kernels), "cpu" if cuda_kernels == "cuda" else "meta"
    options = {"marginalize": {}, "marginalize_targets": {"targets": torch.tensor([1, 2])}}.get(op, {"k": 2})
    with pytest.raises(ValueError, match="branch_log_probs must be") as caught:
        getattr(mtp_ext, op)(logits, case.log_probs.to(other), **options)
    expected = f"[rows=2, branches=3] float32 on {logits.device}"
    assert str(caught.value) == f"{op}: branch_log_probs must be {expected}, got [2, 3] float32 on {other}"
