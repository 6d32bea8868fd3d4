"""What is measured at one position of a text, under each setting, from one forward pass over its branches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp_ext.integrations.prefix import open_prefix
from mtp_ext.marginalize import marginalize_targets, marginalize_topk
from mtp_ext.study.settings import Setting
from mtp_ext.study.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOP = 5


@dataclass(frozen=True)
class Measurement:
    """One position under one setting.

    Attributes:
        kind, position: the kind of text, and the last token that the model was shown.
        setting: the setting's name.
        branches: how many next tokens were summed over.
        dropped_mass: the probability of those that were not.
        next_top1, next_top5: whether the real next token was the most probable one, or among the five.
        second_top1, second_top5: the same of the token after it, which the branches are summed out for.
        second_nll: minus the log-probability of the real second token, in nats.
        seconds: summing out, that is `marginalize_topk` and `marginalize_targets`.
    """

    kind: str
    position: int
    setting: str
    branches: int
    dropped_mass: float
    next_top1: bool
    next_top5: bool
    second_top1: bool
    second_top5: bool
    second_nll: float
    seconds: float


@dataclass(frozen=True)
class BranchPass:
    """All branches of one position, those of the widest setting, and what they cost.

    Attributes:
        logits: [1, branches, vocab].
        log_probs: float32 [1, branches], nats, most probable first.
        seconds: the forward pass over the branches.
    """

    logits: Tensor
    log_probs: Tensor
    seconds: float


@torch.no_grad()
def measure_text(
    model: "PreTrainedModel", text: Text, positions: Tensor, settings: Sequence[Setting]
) -> Iterator[tuple[list[Measurement], BranchPass]]:
    """Yields, position by position, what each setting predicts, with the branches it was computed from.

    The text grows from position to position in one cache; at each, one forward pass runs the branches behind it:
    those of the narrower settings are the first of the widest's.

    Args:
        model: that `check_model` accepts.
        text: what to predict.
        positions: int64 [n], ascending.
        settings: ways to choose the branches.
    """
    tokens = text.tokens.to(model.device)
    prefix = open_prefix(model, batch=1, length=tokens.shape[0])
    seen = 0
    for position in positions.tolist():
        logits = prefix.extend(tokens[None, seen : position + 1])
        seen = position + 1
        choices = [setting.select(logits) for setting in settings]
        counts = [int(choice.counts) for choice in choices]
        widest = choices[max(range(len(settings)), key=counts.__getitem__)]
        branches, log_probs = widest.tokens[0, : max(counts)], widest.log_probs[:, : max(counts)]
        if bool((branches < 0).any()):
            raise ValueError(
                f"study: model must give finite logits, got NaN or infinity at token {position}, {text.path}"
            )
        start = time.perf_counter()
        after = prefix.branch_logits(0, branches)[None]
        branch_pass = BranchPass(after, log_probs, time.perf_counter() - start)

        next_target, second_target = tokens[position + 1], tokens[position + 2]
        certain = torch.zeros_like(log_probs[:, :1])
        next_top = marginalize_topk(logits[None], certain, k=_TOP).tokens[0]
        measurements = []
        for setting, choice, count in zip(settings, choices, counts, strict=True):
            start = time.perf_counter()
            top = marginalize_topk(after[:, :count], log_probs[:, :count], k=_TOP).tokens[0]
            log_prob = marginalize_targets(after[:, :count], log_probs[:, :count], second_target[None])
            second_nll = -float(log_prob)
            measurements.append(
                Measurement(
                    kind=text.kind,
                    position=position,
                    setting=setting.name,
                    branches=count,
                    dropped_mass=float(choice.dropped_mass),
                    next_top1=bool(next_top[0] == next_target),
                    next_top5=bool((next_top == next_target).any()),
                    second_top1=bool(top[0] == second_target),
                    second_top5=bool((top == second_target).any()),
                    second_nll=second_nll,
                    seconds=time.perf_counter() - start,
                )
            )
        yield measurements, branch_pass
