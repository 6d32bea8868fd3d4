"""What is measured at one position of a text, under each setting, from one forward pass over its branches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mtp_ext.integrations.prefix import open_prefix
from mtp_ext.integrations.siblings import Siblings, siblings
from mtp_ext.study.marginalization.settings import Setting
from mtp_ext.study.texts import Text
from mtp_ext.study.top_tokens import most_probable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        seconds: summing out, from the branches' hidden states on.
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


class BranchPass(NamedTuple):
    """All branches of one position, those of the widest setting, and what they cost.

    Attributes:
        siblings: the branches, after the pass over them.
        log_probs: float32 [branches], nats, most probable first.
        seconds: the forward pass.
    """

    siblings: Siblings
    log_probs: Tensor
    seconds: float


@torch.no_grad()
def measure_text(
    model: "PreTrainedModel", text: Text, positions: Sequence[int], settings: Sequence[Setting]
) -> Iterator[tuple[list[Measurement], BranchPass]]:
    """Yields, position by position, what each setting predicts, with the branches it was computed from.

    The text grows from position to position in one cache; at each, one forward pass runs the branches behind it:
    those of the narrower settings are the first of the widest's.

    Args:
        model: that `check_model` accepts.
        text: what to predict.
        positions: ascending.
        settings: ways to choose the branches.
    """
    tokens = text.tokens.to(model.device)
    prefix = open_prefix(model, batch=1, length=tokens.shape[0])
    seen = 0
    for position in positions:
        logits = prefix.extend(tokens[None, seen : position + 1])
        seen = position + 1
        choices = [setting.select(logits) for setting in settings]
        counts = [int(choice.counts) for choice in choices]
        widest = choices[max(range(len(settings)), key=counts.__getitem__)]
        branches, log_probs = widest.tokens[0, : max(counts)], widest.log_probs[0, : max(counts)]
        if bool((branches < 0).any()):
            raise ValueError(
                f"study: model must give finite logits, got NaN or infinity at token {position}, {text.path}"
            )
        start = time.perf_counter()
        branch_pass = BranchPass(siblings(prefix, 0, branches), log_probs, time.perf_counter() - start)
        next_target, second_target = tokens[position + 1], tokens[position + 2]
        next_top = most_probable(logits)[0]
        measured = dict(_second_tokens(branch_pass, second_target, sorted(set(counts))))
        yield (
            [
                Measurement(
                    kind=text.kind,
                    position=position,
                    setting=setting.name,
                    branches=count,
                    dropped_mass=float(choice.dropped_mass),
                    next_top1=bool(next_top[0] == next_target),
                    next_top5=bool((next_top == next_target).any()),
                    **measured[count],
                )
                for setting, choice, count in zip(settings, choices, counts, strict=True)
            ],
            branch_pass,
        )


def _second_tokens(
    branch_pass: BranchPass, target: Tensor, counts: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the first branches say of the second token, for each of the ascending `counts`.

    The mixture over more branches is that over fewer of them and the others: each branch is summed out once.
    """
    behind, log_probs, _ = branch_pass
    mixture = log_probs.new_full((1,), float("-inf"))  # of no branches, whatever the vocabulary
    done, seconds = 0, 0.0
    for count in counts:
        start = time.perf_counter()
        mixture = mixture.logaddexp(behind.mixture(log_probs, done, count))
        top = most_probable(mixture[None])[0]
        log_prob = mixture[target] - log_probs[:count].logsumexp(0)
        done, seconds = count, seconds + time.perf_counter() - start
        yield (
            count,
            {
                "second_top1": bool(top[0] == target),
                "second_top5": bool((top == target).any()),
                "second_nll": -float(log_prob),
                "seconds": seconds,
            },
        )
