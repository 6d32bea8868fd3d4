"""Contract of `linear_marginalize`: the mixture of next-token distributions, from hidden states."""

from typing import Any

from torch import Tensor

from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.linear_branches import SCHEMA, LinearBranches

_OP = "linear_marginalize"


def _check(*args: Any) -> None:
    inputs = LinearBranches(*args)
    inputs.check_alone(_OP)
    if inputs.group_name is None:
        inputs.check_workspace(_OP, inputs.vocab)


def _linear_marginalize(*args: Any) -> Tensor:
    inputs = LinearBranches(*args)
    shards = inputs.open(_OP)
    inputs.check_workspace(_OP, max(shards.sizes))
    out = inputs.branch_log_probs.new_full((inputs.rows, inputs.vocab), float("-inf"))
    for row, mixed in inputs.mixtures(shards):
        out[row : row + mixed.shape[0]] = mixed
    return out


def _fake(*args: Any) -> Tensor:
    inputs = LinearBranches(*args)
    return inputs.branch_log_probs.new_empty(inputs.rows, inputs.vocab)


# One implementation on every device: the product of `VocabHead`, and kernels for what follows it.
linear_marginalize = define(f"{_OP}({SCHEMA}) -> Tensor", check=_check, reference=_linear_marginalize, fake=_fake)

define_no_gradient(_OP)
