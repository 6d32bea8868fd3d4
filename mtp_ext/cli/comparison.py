"""The same prompt decoded with drafts, plainly, and by transformers: what `mtp-ext generate --compare` shows."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from mtp_ext.decoding import Generation, Target, generate


@dataclass
class TransformersGeneration:
    """What transformers' own `generate` wrote, and when each token came, in seconds."""

    new_tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Of decoding: the first token belongs to the prefill."""
        seconds = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / seconds if seconds > 0 else 0.0


class _Clock:
    """A streamer that notes what comes when."""

    def __init__(self) -> None:
        self.generation = TransformersGeneration()
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        if not self._is_prompt:
            self.generation.new_tokens += value.tolist()
            self.generation.times.append(perf_counter())
        self._is_prompt = False

    def end(self) -> None:
        pass


def transformers_generation(model: Any, input_ids: Tensor, settings: dict[str, Any]) -> TransformersGeneration:
    """Decodes one prompt with transformers, with these settings of our `generate`."""
    clock = _Clock()
    options: dict[str, Any] = {"do_sample": False}
    if settings["temperature"]:
        truncation = {name: settings[name] for name in ("top_k", "top_p", "min_p") if settings[name] is not None}
        options = {"do_sample": True, "temperature": settings["temperature"], "top_k": 0} | truncation
    if settings["stop_strings"]:
        options |= {"stop_strings": settings["stop_strings"], "tokenizer": settings["tokenizer"]}
    with torch.no_grad():
        model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=settings["max_new_tokens"],
            streamer=clock,
            **options,
        )
    return clock.generation


def compare(generation: Generation, target: Target, model: Any, input_ids: Tensor, settings: dict[str, Any]) -> str:
    """A table: this generation, plain decoding of the same prompt by the same target, and by transformers."""
    plain = generate(target, input_ids, **settings)
    theirs = transformers_generation(model, input_ids, settings)
    lines = ["", f"{'decoding':<22}{'tokens/s':>10}{'ratio':>8}{'tokens a pass':>16}   text"]
    for name, rate, tokens_per_pass, tokens in (
        ("transformers, plain", theirs.tokens_per_second, 1.0, theirs.new_tokens),
        ("mtp_ext, plain", *_figures(plain)),
        ("mtp_ext, with drafts", *_figures(generation)),
    ):
        ratio = rate / theirs.tokens_per_second if theirs.tokens_per_second else 0.0
        text = "another sample" if settings["temperature"] else _agreement(tokens, theirs.new_tokens)
        lines.append(f"{name:<22}{rate:>10.1f}{ratio:>8.2f}{tokens_per_pass:>16.2f}   {text}")
    return "\n".join(lines)


def _figures(generation: Generation) -> tuple[float, float, list[int]]:
    statistics = generation.statistics
    return statistics.tokens_per_second, statistics.tokens_per_pass, generation.new_tokens[0].tolist()


def _agreement(tokens: list[int], others: list[int]) -> str:
    if tokens == others:
        return f"the same {len(tokens)} tokens"
    pairs = enumerate(zip(tokens, others, strict=False))
    first = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(tokens), len(others)))
    return f"differs from token {first + 1} on"
