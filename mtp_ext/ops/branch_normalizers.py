"""Contract of `branch_normalizers`: the log-normaliser of each branch over one part of the vocabulary.

Normalisers over the parts of a vocabulary, chunks or the shards of several processes, join to that of the whole.
"""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient


def _check(branch_logits: Tensor) -> None:
    shape: list[checks.Dimension] = [("m", None), ("vocab", None)]
    checks.check_tensor("branch_normalizers", "branch_logits", branch_logits, shape, checks.LOGIT_DTYPES)


def _fake(branch_logits: Tensor) -> Tensor:
    return branch_logits.new_empty(branch_logits.shape[0], 2, dtype=torch.float64)


branch_normalizers = define(
    "branch_normalizers(Tensor branch_logits) -> Tensor",
    check=_check,
    reference=reference.branch_normalizers,
    fake=_fake,
)

define_no_gradient("branch_normalizers")


def join_normalizers(parts: Tensor) -> Tensor:
    """float64 [m, 2] of the whole, from [parts, m, 2]."""
    center, rest = parts.unbind(-1)
    largest = (center + rest).argmax(0, keepdim=True)  # NaN is the largest of all
    base = center.gather(0, largest)
    return torch.stack([base[0], ((center - base) + rest).logsumexp(0)], -1)
