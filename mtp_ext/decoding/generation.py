"""The decoding loop: draft a tree, run it through the model in one pass, keep what the model itself would have said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mtp_ext.decoding.drafters import Drafter
from mtp_ext.decoding.prompt_lookup import PromptLookup
from mtp_ext.decoding.requests import check_prompts, split_prompts
from mtp_ext.decoding.run import Run, Settings, Streamer
from mtp_ext.decoding.sampling import Sampling
from mtp_ext.decoding.statistics import Statistics
from mtp_ext.decoding.stopping import Stopping, own_stop_tokens
from mtp_ext.decoding.target import Target, TransformersTarget
from mtp_ext.ops.checks import check_range

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LARGEST_BUDGET = 1024


@dataclass(frozen=True)
class Generation:
    """What was written.

    Attributes:
        sequences: of each request its prompt, without padding, and the new tokens: int64 [tokens], on the CPU.
        new_tokens: of each request the new tokens alone.
        finish_reasons: of each request "length", "stop token" or "stop string"; None where it was interrupted.
        statistics: where the time went, and what became of the drafts.
    """

    sequences: list[Tensor]
    new_tokens: list[Tensor]
    finish_reasons: list[str | None]
    statistics: Statistics


class GenerationError(RuntimeError):
    """Decoding could not go on; `partial` holds what was written until then, and `__cause__` what went wrong."""

    def __init__(self, message: str, partial: Generation) -> None:
        super().__init__(message)
        self.partial = partial


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C; `partial` holds what was written until then."""

    def __init__(self, partial: Generation) -> None:
        super().__init__()
        self.partial = partial


def generate(
    model: "PreTrainedModel | Target",
    input_ids: Tensor,
    drafter: Drafter | Literal["lookup"] | None = None,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    method: str = "target_only",
    budget: int | None = None,
    stop_tokens: Iterable[int] | None = None,
    stop_strings: Sequence[str] = (),
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    seed: int | None = None,
    streamer: Streamer | None = None,
) -> Generation:
    """Writes on, several tokens a pass where the drafts are good: greedily, or with samples of the model's own
    distribution.

    Greedy output is that of plain decoding. In float32 that holds token for token but where the two best logits are
    equal within rounding; in another arithmetic a pass over several nodes rounds differently than one over a single
    node. The cache is allocated once; a request that is finished leaves the batch.

    Args:
        model: a prepared model or another `Target`; a transformers model is run as `TransformersTarget`.
        input_ids: int64 [batch, tokens], the prompts.
        drafter: who proposes: "lookup" is `PromptLookup()`; None decodes plainly.
        max_new_tokens: of each request at most, from 1.
        attention_mask: [batch, tokens], 0 for padding before or behind a prompt.
        temperature: 0 is greedy.
        top_k, top_p, min_p: truncate the model's distribution, in this order, after the temperature.
        method: of `verify_sampling`: "target_only" keeps the model's distribution exactly; "typical" does not.
        budget: nodes of a pass for each request, the root included, up to 1024. None: what brings most tokens a
            second, by measurement; how much that is may change from run to run, and with it which random number
            decides on which token.
        stop_tokens: ids that end a text, and stay in it; None: the model's own, where its generation config has any.
        stop_strings: end a text with the token that completes one of them; for these, `tokenizer` is needed.
        tokenizer: of the model.
        seed: for sampling. With a fixed budget the same seed gives the same text, in any batch that gives the request
            the same place. None: from torch's own generator.
        streamer: is given the tokens as they are accepted; for one request.

    Returns:
        `Generation`.

    Raises:
        ValueError, TypeError: an argument out of its range, or of a wrong shape or dtype; an empty prompt; a prompt
            that leaves no positions for the new tokens; a drafter that does not fit.
        GenerationError: while decoding: logits that are NaN, a drafter that failed. What was written is its `partial`.
        GenerationInterrupted: Ctrl-C, likewise.
    """
    target = _as_target(model)
    check_range("generate", "max_new_tokens", max_new_tokens, 1, 2**31 - 1)
    if budget is not None:
        check_range("generate", "budget", budget, 1, _LARGEST_BUDGET)
    sampling = Sampling(temperature, top_k, top_p, min_p, method)
    check_prompts(target, input_ids, attention_mask, max_new_tokens)
    if streamer is not None and input_ids.shape[0] != 1:
        raise ValueError(f"generate: streamer needs a batch of one request, got {input_ids.shape[0]}")
    if isinstance(drafter, str):
        if drafter != "lookup":
            raise ValueError(f"generate: drafter must be 'lookup', a Drafter or None, got {drafter!r}")
        drafter = PromptLookup()
    if stop_tokens is None:
        stop_tokens = own_stop_tokens(getattr(target, "model", target))
    stopping = Stopping(stop_tokens, stop_strings, tokenizer, max_new_tokens)
    settings = Settings(sampling, stopping, max_new_tokens, budget, seed, streamer)
    run = Run(target, split_prompts(input_ids, attention_mask), drafter, settings)
    try:
        with torch.no_grad():
            run.prefill(input_ids, attention_mask)
            while run.active:
                run.step()
    except KeyboardInterrupt as interrupt:
        raise GenerationInterrupted(_generation(run)) from interrupt
    except Exception as error:
        if run.statistics.tokens == 0:
            raise
        raise GenerationError(f"{error} (after {run.statistics.tokens} tokens)", _generation(run)) from error
    finally:
        if streamer is not None:
            streamer.end()
    return _generation(run)


def _generation(run: Run) -> Generation:
    requests = run.requests
    return Generation(
        sequences=[request.sequence() for request in requests],
        new_tokens=[request.sequence()[len(request.prompt) :] for request in requests],
        finish_reasons=[request.finish_reason for request in requests],
        statistics=run.finished_statistics(),
    )


def _as_target(model: "PreTrainedModel | Target") -> Target:
    if hasattr(model, "run_tree"):
        target: Target = model
        return target
    return TransformersTarget(model)
