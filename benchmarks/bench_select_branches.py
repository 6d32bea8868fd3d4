"""`select_branches` at top_p 0.99 against eager PyTorch: softmax, sort, cumulative sum."""

from collections.abc import Callable

import jobs
import pytest
from cases import LOGIT_SHAPES, Case, over


@pytest.mark.benchmark(group="speed")
@over(LOGIT_SHAPES)
def test_select_branches(compare: Callable[..., None], case: Case) -> None:
    job = jobs.select_branches(case)
    compare(case, job, {"eager": job.eager, "reference": job.reference})
