"""`marginalize_topk` against eager PyTorch, torch.compile of the same two steps, and our `marginalize`."""

from collections.abc import Callable

import eager
import jobs
import pytest
import torch
from cases import BRANCH_SHAPES, Case, over

import mtp_ext
from mtp_ext import reference


@pytest.mark.benchmark(group="speed")
@over(BRANCH_SHAPES)
def test_marginalize_topk(compare: Callable[..., None], case: Case) -> None:
    job = jobs.marginalize_topk(case)
    logits, weights = job.inputs
    compiled = torch.compile(eager.marginalize_topk, dynamic=False)
    compare(
        case,
        job,
        {
            "eager": job.eager,
            "reference": lambda: reference.marginalize_topk(logits, weights, k=jobs.K),
            "marginalize": lambda: mtp_ext.marginalize(logits, weights),
        },
        compiled={"compiled": lambda: compiled(logits, weights, jobs.K)},
    )
