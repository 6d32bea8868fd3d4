"""`joint_topk` against eager PyTorch: log-softmax, add, flatten, top k."""

from collections.abc import Callable

import jobs
import pytest
from cases import BRANCH_SHAPES, Case, over


@pytest.mark.benchmark(group="speed")
@over(BRANCH_SHAPES)
def test_joint_topk(compare: Callable[..., None], case: Case) -> None:
    job = jobs.joint_topk(case)
    compare(case, job, {"eager": job.eager})
