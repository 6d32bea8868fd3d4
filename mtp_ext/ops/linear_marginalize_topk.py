"""Contract of `linear_marginalize_topk`: the most probable tokens of the mixture, from hidden states."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.linear_branches import SCHEMA, LinearBranches
from mtp_ext.reference.numbers import top_descending

_OP = "linear_marginalize_topk"
_MOST_TOKENS = (1 << 32) - 1


def _check(*args: Any) -> None:
    inputs, k = LinearBranches(*args[:-1]), args[-1]
    inputs.check_alone(_OP)
    if inputs.group_name is None:
        _check_against(inputs, k, inputs.vocab, inputs.vocab)


def _check_against(inputs: LinearBranches, k: int, vocab: int, largest_shard: int) -> None:
    checks.check_range(_OP, "k", k, 1, vocab)
    inputs.check_workspace(_OP, largest_shard)


def _linear_marginalize_topk(*args: Any) -> tuple[Tensor, Tensor]:
    inputs, k = LinearBranches(*args[:-1]), args[-1]
    shards = inputs.open(_OP, k=k)
    _check_against(inputs, k, shards.vocab, max(shards.sizes))
    log_probs = inputs.branch_log_probs.new_full((inputs.rows, k), float("-inf"))
    tokens = torch.full_like(log_probs, -1, dtype=torch.int64)
    for row, mixed in inputs.mixtures(shards):
        rows = slice(row, row + mixed.shape[0])
        log_probs[rows], tokens[rows] = _top(mixed, k)
    if len(shards.sizes) == 1:
        return log_probs, tokens
    tokens = torch.where(tokens < 0, tokens, tokens + shards.offset)
    candidates = shards.gather(tokens).transpose(0, 1).flatten(1)  # [rows, ranks * k], equal ones in ascending order
    log_probs, place = top_descending(shards.gather(log_probs).transpose(0, 1).flatten(1), k)
    return log_probs, torch.where(place < 0, place, candidates.gather(1, place.clamp(min=0)))


def _top(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and tokens [rows, k] of [rows, vocab], ties to the lower token.

    The keys are unique: a float's bits in an order of integers, then the token from behind. So `topk`, which leaves
    open how it breaks ties, has none to break.
    """
    vocab = log_probs.shape[-1]
    found = min(k, vocab)
    bits = (log_probs + 0.0).view(torch.int32)  # one zero
    keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() << 32
    keys += _MOST_TOKENS - torch.arange(vocab, device=keys.device)
    tokens = _MOST_TOKENS - (keys.topk(found).values & _MOST_TOKENS)
    values = log_probs.gather(-1, tokens)
    tokens = tokens.masked_fill(~(values > float("-inf")), -1)
    values = pad(values, (0, k - found), value=float("-inf"))
    if vocab > 0:
        values = values.masked_fill(log_probs[:, :1].isnan(), float("nan"))  # a broken row is NaN in all its tokens
    return values, pad(tokens, (0, k - found), value=-1)


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    inputs = LinearBranches(*args[:-1])
    log_probs = inputs.branch_log_probs.new_empty(inputs.rows, args[-1])
    return log_probs, torch.empty_like(log_probs, dtype=torch.int64)


linear_marginalize_topk = define(
    f"{_OP}({SCHEMA}, int k) -> (Tensor, Tensor)", check=_check, reference=_linear_marginalize_topk, fake=_fake
)

define_no_gradient(_OP)
