"""The floors of `make cuda-report` against what the kernels are counted to move."""

from typing import Any

import pytest

OPS = [
    "marginalize",
    "marginalize_topk",
    "marginalize_targets",
    "joint_topk",
    "linear_marginalize",
    "select_branches",
    "verify_greedy",
    "verify_sampling",
    "tree_attention",
    "merge_states",
    "append_",
    "commit_",
]
# Kernels that read what they need once, and little beside it.
STREAMS = ("sum_branches_kernel", "tree_attention_kernel", "merge_states_kernel", "append_kernel", "commit_kernel")


def test_every_op_is_reported(stand_in: Any) -> None:
    from tests.cuda_report.kernels import OPS as REPORTED

    assert list(REPORTED) == OPS


@pytest.mark.parametrize("op", OPS)
def test_no_kernel_moves_less_than_its_floor(stand_in: Any, op: str) -> None:
    from tests.cuda_report.counting import count
    from tests.cuda_report.kernels import OPS as REPORTED
    from tests.cuda_report.report import SIZES

    kernels = REPORTED[op].kernels
    counts = list(count(stand_in, op))
    assert {counted.kernel.partition("<")[0] for counted in counts} == set(kernels)
    for counted in counts:
        name = counted.kernel.partition("<")[0]
        floor = kernels[name](counted.shape, SIZES[counted.dtype]).bytes
        assert counted.bytes >= floor
        assert counted.bytes <= 1.4 * floor or name not in STREAMS
