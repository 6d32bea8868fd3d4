"""`marginalize` against eager PyTorch, torch.compile of it, and our reference."""

from collections.abc import Callable

import eager
import jobs
import pytest
import torch
from cases import BRANCH_SHAPES, Case, over

from mtp_ext import reference


@pytest.mark.benchmark(group="speed")
@over(BRANCH_SHAPES)
def test_marginalize(compare: Callable[..., None], case: Case) -> None:
    job = jobs.marginalize(case)
    logits, weights = job.inputs
    compiled = torch.compile(eager.marginalize, dynamic=False)
    compare(
        case,
        job,
        {"eager": job.eager, "reference": lambda: reference.marginalize(logits, weights)},
        compiled={"compiled": lambda: compiled(logits, weights)},
    )
