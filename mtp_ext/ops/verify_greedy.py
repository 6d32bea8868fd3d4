"""Contract of `verify_greedy`."""

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.verify_checks import check_tokens, check_tree

_OP = "verify_greedy"


def _check(tokens: Tensor, parents: Tensor, target: Tensor) -> None:
    check_tree(_OP, tokens, parents)
    shape: list[checks.Dimension] = list(zip(("batch", "nodes"), tokens.shape, strict=True))
    if isinstance(target, Tensor) and target.dtype == torch.int64:
        checks.check_tensor(_OP, "target", target, shape, [torch.int64], tokens)
        return
    checks.check_tensor(_OP, "target", target, [*shape, ("vocab", None)], checks.LOGIT_DTYPES, tokens)
    check_tokens(_OP, tokens, parents, target.shape[-1])


def _fake(tokens: Tensor, parents: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, nodes = tokens.shape
    return tokens.new_empty(batch, nodes), tokens.new_empty(batch), tokens.new_empty(batch)


verify_greedy = define(
    "verify_greedy(Tensor tokens, Tensor parents, Tensor target) -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=reference.verify_greedy,
    fake=_fake,
)

define_no_gradient("verify_greedy")
