"""`linear_marginalize` against eager PyTorch, torch.compile of the same two steps, and the bare product, torch's and
oneDNN's of a weight that it has packed for this number of rows."""

from collections.abc import Callable

import eager
import jobs
import pytest
import torch
from cases import HIDDEN_SHAPES, Case, over

import mtp_ext


@pytest.mark.benchmark(group="speed")
@over(HIDDEN_SHAPES)
def test_linear_marginalize(compare: Callable[..., None], case: Case) -> None:
    job = jobs.linear_marginalize(case)
    hidden, unembedding, weights = job.inputs
    targets = torch.zeros(1, dtype=torch.int64)
    packed = torch.ops.mkldnn._reorder_linear_weight(unembedding, hidden.shape[1])
    product = torch.ops.mkldnn._linear_pointwise
    compiled = torch.compile(eager.linear_marginalize, dynamic=False)
    compare(
        case,
        job,
        {
            "eager": job.eager,
            "bare product": lambda: torch.nn.functional.linear(hidden, unembedding),
            "bare product, packed": lambda: product(hidden, packed, None, "none", [], ""),
            "targets": lambda: mtp_ext.linear_marginalize_targets(hidden, unembedding, weights, targets),
            "top 5": lambda: mtp_ext.linear_marginalize_topk(hidden, unembedding, weights, k=jobs.K),
        },
        compiled={"compiled": lambda: compiled(hidden, unembedding, weights)},
    )
