"""The ways to decode that are compared: transformers, transformers with packed weights, and ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtp_ext.decoding import (
    Drafter,
    DraftModel,
    HeadsDrafter,
    PreparedModel,
    PromptLookup,
    first_layers,
    generate,
    prepare,
)
from mtp_ext.heads import MTPHeads

LOOKUP_TOKENS = 10  # of transformers' prompt lookup, as its documentation has it
PACKED_FOR = 16  # rows: of 1, 8, 16 and none the layout that was fastest at 1, 4 and 11 rows


@dataclass
class Decoded:
    """One run over one prompt: seconds, and for ours what became of the drafts."""

    tokens: list[int]
    prefill_seconds: float
    decode_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


Variant = Callable[[Tensor, int], Decoded]  # input_ids [1, tokens], new tokens


class _Clock:
    """A transformers streamer that notes when the first new token and the last one came."""

    def __init__(self) -> None:
        self.begin = perf_counter()
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        pass


def transformers_greedy(model: PreTrainedModel, input_ids: Tensor, new_tokens: int, **options: Any) -> Decoded:
    clock = _Clock()
    with torch.no_grad():
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=clock,
            **options,
        )
    _, first, *_ = clock.times  # the prompt comes before it
    tokens = output[0, input_ids.shape[1] :].tolist()
    return Decoded(tokens, first - clock.begin, clock.times[-1] - first)


def packed_transformers(model: PreTrainedModel, input_ids: Tensor, new_tokens: int, **options: Any) -> Decoded:
    with packed_linears(model):
        return transformers_greedy(model, input_ids, new_tokens, **options)


_packed: dict[nn.Linear, Tensor] = {}


@contextmanager
def packed_linears(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, every linear layer is oneDNN's product with a weight in oneDNN's own layout, made once."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        if linear not in _packed:
            _packed[linear] = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_FOR)
        linear.__dict__["forward"] = partial(_packed_linear, _packed[linear], linear.bias)
    try:
        yield
    finally:
        for linear in linears:
            del linear.__dict__["forward"]


def _packed_linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def ours(target: PreparedModel, drafter: Drafter | None, input_ids: Tensor, new_tokens: int) -> Decoded:
    generation = generate(target, input_ids, drafter, max_new_tokens=new_tokens, stop_tokens=())
    statistics = generation.statistics
    seconds = statistics.seconds
    details = {
        "tokens_per_pass": statistics.tokens_per_pass,
        "accepted_share": statistics.accepted_share,
        "budgets": dict(sorted(statistics.budgets.items())),
        "explanation": statistics.explanation,
        "seconds_a_pass": {
            name: getattr(seconds, name) / max(statistics.passes, 1)
            for name in ("drafting", "forward", "verification", "loop")
        },
    }
    return Decoded(generation.new_tokens[0].tolist(), seconds.prefill, seconds.decoding, details)


def variants(models: dict[str, PreTrainedModel], draft_layers: int, heads: Path | None) -> dict[str, Variant]:
    """By name, with the arithmetic that it runs in: models are by dtype. The first of each is what others are compared
    to."""
    found: dict[str, Variant] = {}
    for dtype, model in models.items():
        model.generation_config.eos_token_id = None  # as many tokens for all
        lookup: dict[str, Any] = {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
        found[f"transformers {dtype}"] = partial(transformers_greedy, model)
        found[f"transformers {dtype}, lookup"] = partial(transformers_greedy, model, **lookup)
        found[f"transformers {dtype}, packed, lookup"] = partial(packed_transformers, model, **lookup)
        prepared = prepare(model, arithmetic=dtype)
        found[f"mtp_ext {dtype}, plain"] = partial(ours, prepared, None)
        found[f"mtp_ext {dtype}, lookup"] = partial(ours, prepared, PromptLookup())
        draft = DraftModel(prepare(first_layers(model, draft_layers), arithmetic=dtype))
        found[f"mtp_ext {dtype}, first {draft_layers} layers"] = partial(ours, prepared, draft)
        if heads is not None:
            drafter = HeadsDrafter(MTPHeads.from_pretrained(heads, model))
            found[f"mtp_ext {dtype}, heads"] = partial(ours, prepared, drafter)
    return found
