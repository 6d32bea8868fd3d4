"""`skinny_linear` and `skinny_linear_topk` against torch's linear layer, and against oneDNN's product of a weight that
it has packed for this number of rows. No weight is in a cache when its turn comes."""

from collections.abc import Callable
from itertools import cycle

import jobs
import pytest
import torch
from cases import HEAD_SHAPES, LINEAR_SHAPES, Case, over


@pytest.mark.benchmark(group="speed")
@over(LINEAR_SHAPES)
def test_skinny_linear(compare: Callable[..., None], case: Case) -> None:
    job = jobs.skinny_linear(case)
    x, _ = job.inputs
    packed = cycle([torch.ops.mkldnn._reorder_linear_weight(each, len(x)) for each in jobs.linear_weights(case)])
    product = torch.ops.mkldnn._linear_pointwise
    rivals = {"eager": job.eager, "oneDNN, packed": lambda: product(x, next(packed), None, "none", [], "")}
    compare(case, job, rivals)


@pytest.mark.benchmark(group="speed")
@over(HEAD_SHAPES)
def test_skinny_linear_topk(compare: Callable[..., None], case: Case) -> None:
    job = jobs.skinny_linear_topk(case)
    compare(case, job, {"eager": job.eager})
