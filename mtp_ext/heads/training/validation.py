"""How often heads are right: the rank of the real token among all that a head could say."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import Block, collate
from mtp_ext.heads.training.states import States

_CHUNK = 64  # rows of logits at a time


@dataclass(frozen=True)
class Accuracy:
    """Of one head on one kind of text.

    Attributes:
        horizon: how many tokens ahead.
        kind: of text.
        targets: how many tokens it was asked for.
        top1, top4, top5: the share of them that were its most probable token, or among its four or five.
        loss: mean cross entropy, nats.
    """

    horizon: int
    kind: str
    targets: int
    top1: float
    top4: float
    top5: float
    loss: float


@torch.no_grad()
def validate(
    heads: MTPHeads, states: States, blocks: Sequence[Block], batch: int, unembedding: Tensor
) -> list[Accuracy]:
    """The accuracy of every head, by kind of text and over all of it, kind "all"; horizon 1 is added where `heads`
    have none: the model's own next token."""
    found: dict[tuple[int, str], list[Tensor]] = {}
    order = sorted(range(len(blocks)), key=lambda place: len(blocks[place].tokens))
    for start in range(0, len(order), batch):
        some = collate(blocks, order[start : start + batch], unembedding.device)
        outputs = states(some)
        hidden = dict(zip(heads.config.horizons, heads(outputs), strict=True))
        hidden.setdefault(1, outputs.last_hidden)
        for horizon, states_of in hidden.items():
            positions = some.positions(horizon)
            numbers = _ranks_and_losses(states_of[positions], unembedding, some.targets(horizon))
            for place, part in zip(some.places, numbers.split(positions.sum(1).tolist()), strict=True):
                for kind in (blocks[place].kind, "all"):
                    found.setdefault((horizon, kind), []).append(part)
    return [_accuracy(horizon, kind, torch.cat(parts)) for (horizon, kind), parts in sorted(found.items())]


def _ranks_and_losses(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    """[rows, 2]: how many tokens come before the target, of equal ones those with a lower id, and its loss."""
    numbers = torch.empty(hidden.shape[0], 2, dtype=torch.float64)
    ids = torch.arange(unembedding.shape[0], device=hidden.device)
    for start in range(0, hidden.shape[0], _CHUNK):
        some = slice(start, start + _CHUNK)
        logits = hidden[some].to(unembedding.dtype) @ unembedding.T
        wanted = targets[some, None]
        own = logits.gather(1, wanted)
        before = (logits > own) | ((logits == own) & (ids < wanted))
        numbers[some, 0] = before.sum(-1).double()
        numbers[some, 1] = (logits.float().logsumexp(-1) - own[:, 0].float()).double()
    return numbers


def _accuracy(horizon: int, kind: str, numbers: Tensor) -> Accuracy:
    rank, loss = numbers.unbind(-1)
    top = {f"top{k}": float((rank < k).double().mean()) if len(rank) else float("nan") for k in (1, 4, 5)}
    return Accuracy(horizon, kind, len(rank), **top, loss=float(loss.mean()))
