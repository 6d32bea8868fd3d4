"""What a strategy got right, place by place: the same places for all, so that they can be compared in pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp_ext.heads import MTPHeads
from mtp_ext.study.heads.samples import Sample
from mtp_ext.study.marginalization.measurement import measure_text
from mtp_ext.study.marginalization.settings import Setting
from mtp_ext.study.top_tokens import most_probable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 64  # of logits at a time


@dataclass(frozen=True)
class Prediction:
    """At one position of one kind of text: whether the real next and second token were the most probable one, or
    among the five most probable."""

    kind: str
    next_top1: bool
    next_top5: bool
    second_top1: bool
    second_top5: bool


def predict_by_marginals(
    model: "PreTrainedModel", samples: Sequence[Sample], top_p: float, tick: Callable[[int], object]
) -> list[Prediction]:
    """By the model itself, with the next token summed out; `tick` is told of positions that are done."""
    predictions = []
    for sample in samples:
        for [row], _ in measure_text(model, sample.text, sample.positions, [Setting(top_p=top_p)]):
            predictions.append(Prediction(row.kind, row.next_top1, row.next_top5, row.second_top1, row.second_top5))
            tick(1)
    return predictions


@torch.no_grad()
def predict_by_heads(
    heads: MTPHeads, model: "PreTrainedModel", samples: Sequence[Sample], tick: Callable[[int], object]
) -> list[Prediction]:
    """By heads of the horizons 1 and 2; `model` with its adapters, where it has some."""
    heads.eval()
    predictions = []
    for sample in samples:
        tokens = sample.text.tokens.to(heads.unembedding.device)
        positions = torch.tensor(sample.positions, device=tokens.device)
        states = heads.layer_outputs(model, tokens[None, : sample.positions[-1] + 1])
        one, two = (hidden[0, positions] for hidden in heads(states))
        rows = [_hits(hidden, heads.unembedding, tokens[positions + n]) for n, hidden in ((1, one), (2, two))]
        predictions += [Prediction(sample.text.kind, *map(bool, row)) for row in torch.cat(rows, -1).tolist()]
        tick(len(sample.positions))
    return predictions


def _hits(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    """bool [rows, 2]: whether the target is the most probable token, and among the five."""
    best = torch.cat([most_probable(some.to(unembedding.dtype) @ unembedding.T) for some in hidden.split(_ROWS)])
    right = best == targets[:, None]
    return torch.stack([right[:, 0], right.any(-1)], -1)
