"""What the ops that rank tokens are tested on alike."""

import pytest
import torch

from mtp_ext.testing import dense_case, ragged_case

_CASES = [
    dense_case(2, 8, 49152),
    dense_case(2, 3, 128256, dtype=torch.bfloat16),
    dense_case(1, 2, 262144, dtype=torch.float16),
    dense_case(1, 10_000, 257),
    dense_case(1, 270, 5003),
    ragged_case([5, 0, 70, 1], 12289),
]


def over_real_sizes(test):
    """Runs a test on vocabularies and branches of real models, for `k` from one to more than a block's tokens."""
    cases = pytest.mark.parametrize(
        "case", _CASES, ids=lambda case: f"{'x'.join(map(str, case.logits.shape))}-{case.logits.dtype}"
    )
    return pytest.mark.parametrize("k", [1, 5, 257])(cases(test))
