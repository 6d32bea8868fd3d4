"""Each op at work on one case: the same input for our kernel and for eager PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import eager
import torch
from cases import BRANCH_SHAPES, LOGIT_SHAPES, Case
from torch import Tensor

import mtp_ext
from mtp_ext.testing import dense_case, peaked_logits

Call = Callable[[], Any]

K = 5
TOP_P = 0.99
MAX_BRANCHES = 1024


@dataclass(frozen=True)
class Job:
    """One op on one input.

    Attributes:
        op: its name.
        inputs: the tensors that it reads.
        exponentials: one a logit for the normalizers, one more where all of the mixture is wanted.
        ours, eager: the calls.
        summary: what of a result must be equal, within rounding, for both.
    """

    op: str
    inputs: Sequence[Tensor]
    exponentials: int
    ours: Call
    eager: Call
    summary: Callable[[Any], Tensor]


def _branches(case: Case) -> tuple[Tensor, Tensor]:
    """Logits, and log-weights that sum to one: eager code need not renormalize them."""
    branches = dense_case(*case.shape, dtype=case.torch_dtype)
    return branches.logits, branches.log_probs.log_softmax(-1)


def _first(result: Any) -> Tensor:
    first: Tensor = result if isinstance(result, Tensor) else result[0]
    return first


def marginalize(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="marginalize",
        inputs=(logits, weights),
        exponentials=2 * logits.numel(),
        ours=lambda: mtp_ext.marginalize(logits, weights),
        eager=lambda: eager.marginalize(logits, weights),
        summary=_first,
    )


def marginalize_topk(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="marginalize_topk",
        inputs=(logits, weights),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.marginalize_topk(logits, weights, k=K),
        eager=lambda: eager.marginalize_topk(logits, weights, K),
        summary=_first,
    )


def marginalize_targets(case: Case) -> Job:
    logits, weights = _branches(case)
    targets = torch.arange(case.shape[0])
    return Job(
        op="marginalize_targets",
        inputs=(logits, weights, targets),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.marginalize_targets(logits, weights, targets),
        eager=lambda: eager.marginalize_targets(logits, weights, targets),
        summary=_first,
    )


def joint_topk(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="joint_topk",
        inputs=(logits, weights),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.joint_topk(logits, weights, k=K),
        eager=lambda: eager.joint_topk(logits, weights, K),
        summary=_first,
    )


def select_branches(case: Case) -> Job:
    logits = peaked_logits(*case.shape, seed=0, dtype=case.torch_dtype)
    return Job(
        op="select_branches",
        inputs=(logits,),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.select_branches(logits, top_p=TOP_P, max_branches=MAX_BRANCHES),
        eager=lambda: eager.select_branches(logits, TOP_P, MAX_BRANCHES),
        # The mass kept: rounding may put the token at the edge of the nucleus in or out.
        summary=lambda result: result[1].exp().sum(-1),
    )


# Every op with the shapes that it is measured at.
JOBS: dict[str, tuple[Callable[[Case], Job], tuple[tuple[int, ...], ...]]] = {
    "marginalize": (marginalize, BRANCH_SHAPES),
    "marginalize_topk": (marginalize_topk, BRANCH_SHAPES),
    "marginalize_targets": (marginalize_targets, BRANCH_SHAPES),
    "joint_topk": (joint_topk, BRANCH_SHAPES),
    "select_branches": (select_branches, LOGIT_SHAPES),
}
