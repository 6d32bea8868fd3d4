"""Contract of `select_branches`: the intermediate tokens to sum over."""

import math

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient

_OP = "select_branches"
_MOST_BRANCHES = 1 << 20  # more than any vocabulary holds; keeps a mistyped width from filling the memory


def _check(logits: Tensor, top_p: float, top_k: int | None, temperature: float, max_branches: int) -> None:
    checks.check_tensor(_OP, "logits", logits, [("rows", None), ("vocab", None)], checks.LOGIT_DTYPES)
    checks.check_number(_OP, "top_p", top_p)
    checks.check_number(_OP, "temperature", temperature)
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"{_OP}: top_p must be in (0, 1], got {top_p:g}")
    if top_k is not None:
        checks.check_range(_OP, "top_k", top_k, 1, logits.shape[1])
    if not (temperature > 0.0 and math.isfinite(temperature)):
        raise ValueError(f"{_OP}: temperature must be a positive number, got {temperature:g}")
    if not 1e-30 <= temperature <= 1e30:
        raise ValueError(f"{_OP}: temperature must be from 1e-30 to 1e+30, got {temperature:g}")
    checks.check_range(_OP, "max_branches", max_branches, 1, _MOST_BRANCHES)


def _fake(
    logits: Tensor, top_p: float, top_k: int | None, temperature: float, max_branches: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = logits.shape[0], max_branches if top_k is None else top_k
    tokens = logits.new_empty(rows, width, dtype=torch.int64)
    counts = logits.new_empty(rows, dtype=torch.int64)
    return (
        tokens,
        torch.empty_like(tokens, dtype=torch.float32),
        counts,
        torch.empty_like(counts, dtype=torch.float32),
    )


select_branches = define(
    "select_branches(Tensor logits, float top_p, int? top_k, float temperature, int max_branches) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    reference=reference.select_branches,
    fake=_fake,
)

define_no_gradient("select_branches")
