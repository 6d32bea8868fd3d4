"""`select_branches` at top_p 0.99 against eager PyTorch: softmax, sort, cumulative sum."""

from collections.abc import Callable

import jobs
import pytest
from cases import LOGIT_SHAPES, Case, over

from mtp_ext import reference


@pytest.mark.benchmark(group="speed")
@over(LOGIT_SHAPES)
def test_select_branches(compare: Callable[..., None], case: Case) -> None:
    job = jobs.select_branches(case)
    (logits,) = job.inputs
    compare(
        case,
        job,
        {
            "eager": job.eager,
            "reference": lambda: reference.select_branches(logits, top_p=jobs.TOP_P, max_branches=jobs.MAX_BRANCHES),
        },
    )
