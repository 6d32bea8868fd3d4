"""Contract of `linear_marginalize_targets`: the mixture's log-probability of one token a row, from hidden states.

Only the normalisers and one logit a branch are kept, so that a chunk of the logits is all that there ever is of them,
and all of the product is done with a chunk of the unembedding while that is in the cache. The gradient computes the
chunks again.
"""

from typing import Any

import torch
from torch import Tensor

from mtp_ext.ops import checks
from mtp_ext.ops.branch_normalizers import branch_normalizers, join_normalizers
from mtp_ext.ops.hidden_branches import HiddenBranches
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.linear_branches import SCHEMA, LinearBranches
from mtp_ext.ops.vocab_shards import VocabShards

_OP = "linear_marginalize_targets"


def _check(*args: Any) -> None:
    inputs, targets = LinearBranches(*args[:-1]), args[-1]
    inputs.check_alone(_OP)
    if inputs.group_name is None:
        _check_targets(inputs, targets, inputs.vocab)


def _check_targets(inputs: LinearBranches, targets: Tensor, vocab: int) -> None:
    checks.check_tensor(_OP, "targets", targets, [("rows", inputs.rows)], [torch.int64], inputs.branch_hidden)
    if checks.has_values(targets):
        for row, token in enumerate(targets.tolist()):
            if not 0 <= token < vocab:
                raise ValueError(f"{_OP}: targets must be from 0 to {vocab - 1}, got targets[{row}]={token}")


def _linear_marginalize_targets(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [rows]; of each branch that of the target, nats, and the normaliser, float64 [m] and [m, 2]."""
    inputs, targets = LinearBranches(*args[:-1]), args[-1]
    shards = inputs.open(_OP, **_facts(targets))
    _check_targets(inputs, targets, shards.vocab)
    branches = inputs.branches()
    normalizers, logits = _read_logits(inputs, branches, targets[branches.row], shards)
    center, rest = normalizers.unbind(-1)
    token_log_probs = (logits - center) - rest.masked_fill(rest == -float("inf"), float("nan"))
    out = branches.row_logsumexp(branches.log_weights + token_log_probs).float()
    m = inputs.branch_log_probs.numel()
    return out, branches.spread(token_log_probs, m), branches.spread(normalizers, m)


def _read_logits(
    inputs: LinearBranches, branches: HiddenBranches, wanted: Tensor, shards: VocabShards
) -> tuple[Tensor, Tensor]:
    """The branches' normalisers, float64 [m, 2], and their logits of the wanted tokens, float64 [m]."""
    local = wanted - shards.offset
    logit = inputs.branch_log_probs.new_zeros(len(branches), dtype=torch.float64)
    nothing = torch.stack([logit, torch.full_like(logit, -float("inf"))], -1)
    parts: dict[int, Tensor] = {-1: nothing}  # by first token
    for some, tokens, logits in inputs.chunks(branches, inputs.head()):
        parts.setdefault(tokens.start, torch.empty_like(nothing))[some] = branch_normalizers(logits)
        place = local[some] - tokens.start
        inside = (place >= 0) & (place < logits.shape[1])
        found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        logit[some] = torch.where(inside, found.double(), logit[some])
    normalizers = join_normalizers(torch.stack(list(parts.values())))
    told = shards.gather(torch.cat([normalizers, logit[:, None]], -1))  # [ranks, m, 3]
    owner = shards.owner(wanted)
    return join_normalizers(told[..., :2]), told[..., 2].gather(0, owner[None])[0]


def _facts(targets: Tensor) -> dict[str, float]:
    weighted = targets.double() * torch.arange(1, targets.numel() + 1, device=targets.device).view(targets.shape)
    return {"the number of targets": targets.numel(), "the checksum of targets": float(weighted.sum())}


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    log_probs, targets = args[2], args[-1]
    branches = log_probs.numel()
    numbers = log_probs.new_empty(branches, 2, dtype=torch.float64)
    return log_probs.new_empty(targets.shape[0]), numbers.new_empty(branches), numbers


linear_marginalize_targets = define(
    f"{_OP}({SCHEMA}, Tensor targets) -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=_linear_marginalize_targets,
    fake=_fake,
)
define_no_gradient(_OP)
