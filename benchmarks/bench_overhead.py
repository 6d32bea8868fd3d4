"""What a call costs before any work is done: each op on a tiny input, against an op that does nothing.

That op is `aten.alias`: C++, through torch.ops as ours, one tensor in and one view of it out.
"""

from collections.abc import Callable

import jobs
import pytest
import torch
from cases import Case

LOOPS = 500  # calls timed together: one alone is too short for the clock


@pytest.mark.benchmark(group="overhead")
@pytest.mark.parametrize("op", jobs.JOBS)
def test_overhead(compare: Callable[..., None], op: str) -> None:
    tiny = Case(jobs.JOBS[op].tiny, "float32", 1)
    job = jobs.JOBS[op].make_job(tiny)
    alias = torch.ops.aten.alias.default
    x = job.inputs[0]
    compare(tiny, job, {"empty op": lambda: alias(x)}, loops=LOOPS)
