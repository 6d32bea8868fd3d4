"""Prompts in a KV cache, and what a Hugging Face model expects behind them and behind each of many branches.

A branch is a next token. Branches of one prompt run as siblings, hundreds in one forward pass: each sees the prompt
and itself.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import ModelOutput

from mtp_ext.integrations.cache_argument import cache_option
from mtp_ext.integrations.model_head import ModelHead, watch_head
from mtp_ext.integrations.tree_cache import TreeCache, other_layer
from mtp_ext.integrations.tree_model import chain_forward, sibling_forward, tree_attention_in
from mtp_ext.ops.checks import LOGIT_DTYPES

# Branches of one forward pass. `select_branches` keeps at most as many by default, so one pass is the rule; beyond,
# the activations would grow without bound.
MAX_BRANCHES = 1024


class Prefix(Protocol):
    """A batch of prompts of equal length."""

    def extend(self, input_ids: Tensor) -> Tensor:
        """Appends tokens, int64 [batch, tokens]; logits [batch, vocab] of what follows the last one."""

    def branch_logits(self, row: int, tokens: Tensor) -> Tensor:
        """Logits [m, vocab] of what follows each of the branches `tokens`, int64 [m], of prompt `row`."""

    def branch_hidden(self, row: int, tokens: Tensor) -> Tensor:
        """What the model's head reads for each of them: the last hidden states [m, hidden]."""

    @property
    def head(self) -> ModelHead | None:
        """What gives `branch_logits` from `branch_hidden`, known from the first `extend` on; None where the model
        does something else."""


def open_prefix(model: PreTrainedModel, batch: int, length: int) -> Prefix:
    """An empty prefix, for a model that `check_model` accepts; through tree attention wherever it serves the model.

    Args:
        model: in evaluation mode. Its `attn_implementation` is exchanged only while a pass runs.
        batch: how many prompts.
        length: the most tokens that a prompt will have.
    """
    return TreePrefix(model, batch, length) if serves_trees(model) else MaskPrefix(model)


class TreePrefix:
    """In a preallocated cache, which the branches read in place and are appended to, by tree attention."""

    def __init__(self, model: PreTrainedModel, batch: int, length: int) -> None:
        self.model = model
        self.cache = TreeCache(model, batch, length + MAX_BRANCHES)
        self.head: ModelHead | None = None

    def extend(self, input_ids: Tensor) -> Tensor:
        with tree_attention_in(self.model), watch_head(self.model) as watch:
            logits: Tensor = chain_forward(self.model, input_ids, self.cache, logits_to_keep=1).logits
        self.head = watch.head(logits)
        return logits[:, 0]

    def branch_logits(self, row: int, tokens: Tensor) -> Tensor:
        return self._in_passes(row, tokens, lambda *inputs: sibling_forward(self.model, *inputs).logits)

    def branch_hidden(self, row: int, tokens: Tensor) -> Tensor:
        base = self.model.base_model
        return self._in_passes(row, tokens, lambda *inputs: sibling_forward(base, *inputs).last_hidden_state)

    def _in_passes(self, row: int, tokens: Tensor, run: Callable[[Tensor, TreeCache], Tensor]) -> Tensor:
        cache = self.cache.request(row)
        with tree_attention_in(self.model):
            passes = [run(branches[None], cache)[0] for branches in tokens.split(MAX_BRANCHES)]
        return passes[0] if len(passes) == 1 else torch.cat(passes)


class MaskPrefix:
    """In transformers' own cache, with a mask of four dimensions: for models that tree attention cannot serve."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.head: ModelHead | None = None

    @torch.no_grad()
    def extend(self, input_ids: Tensor) -> Tensor:
        with watch_head(self.model) as watch:
            options = cache_option(type(self.model).forward, self.cache)
            output = self.model(input_ids, use_cache=True, logits_to_keep=1, **options)
        logits: Tensor = output.logits
        self.head = watch.head(logits)
        return logits[:, 0]

    @torch.no_grad()
    def branch_logits(self, row: int, tokens: Tensor) -> Tensor:
        passes = [self._sibling_pass(self.model, row, branches).logits[0] for branches in tokens.split(MAX_BRANCHES)]
        return passes[0] if len(passes) == 1 else torch.cat(passes)

    @torch.no_grad()
    def branch_hidden(self, row: int, tokens: Tensor) -> Tensor:
        base = self.model.base_model
        passes = [
            self._sibling_pass(base, row, branches).last_hidden_state[0] for branches in tokens.split(MAX_BRANCHES)
        ]
        return passes[0] if len(passes) == 1 else torch.cat(passes)

    def _sibling_pass(self, model: PreTrainedModel, row: int, tokens: Tensor) -> ModelOutput:
        # A cache of its own, made of views: transformers appends by concatenation, so the shared one stays.
        prefix = DynamicCache([(layer.keys[row : row + 1], layer.values[row : row + 1]) for layer in self.cache.layers])
        nodes, length = tokens.shape[0], self.cache.get_seq_length()
        dtype = self.model.dtype
        mask = torch.full((nodes, length + nodes), torch.finfo(dtype).min, dtype=dtype, device=tokens.device)
        mask[:, :length] = 0.0
        mask[:, length:].fill_diagonal_(0.0)
        return model(
            tokens[None],
            attention_mask=mask[None, None],
            position_ids=torch.full_like(tokens[None], length),
            use_cache=True,
            **cache_option(type(model).forward, prefix),
        )


def serves_trees(model: PreTrainedModel) -> bool:
    """Whether tree attention serves this model: a decoder whose layers all go through transformers' attention
    interface and see all tokens or a sliding window, with heads of a size that the op takes."""
    config = model.config
    return (
        model.is_backend_compatible()
        and model.can_generate()
        and config.get_text_config(decoder=True) is config
        and not config.is_encoder_decoder
        and getattr(config, "is_causal", True)
        and getattr(config, "attention_chunk_size", None) is None
        and other_layer(config) is None
        and 16 <= (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) <= 256
        and model.dtype in LOGIT_DTYPES
    )


def check_model(op: str, model: Any, length: int) -> None:
    """Raises unless branches behind `length` tokens can be told to the model.

    Raises:
        TypeError: not a Hugging Face model.
        ValueError: a model that takes no position ids (ALiBi), or too few positions; and where tree attention does
            not serve it, an attention back end that takes no mask of four dimensions, or layers that do not see the
            whole prefix.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{op}: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    name = type(model).__name__
    takes_position_ids = "position_ids" in inspect.signature(model.forward).parameters
    if not takes_position_ids or getattr(model.config, "alibi", False):
        raise ValueError(f"{op}: model must go by position_ids, got {name}, which does not")
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length + 1 > limit:
        raise ValueError(
            f"{op}: model must have a position for each of the {length} tokens and the branch after them, "
            f"got {name} with {limit} positions"
        )
    if not serves_trees(model):
        _check_mask_prefix(op, model, length)


def _check_mask_prefix(op: str, model: PreTrainedModel, length: int) -> None:
    name = type(model).__name__
    if (attention := model.config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(f"{op}: model must run with attention 'sdpa' or 'eager', got {name} with {attention!r}")
    for index, layer in enumerate(DynamicCache(config=model.config).layers):
        # While nothing has left a sliding window, its layer is full attention.
        sees_all = type(layer) is DynamicLayer or (
            isinstance(layer, DynamicSlidingWindowLayer) and length + 1 <= layer.sliding_window
        )
        if not sees_all:
            raise ValueError(
                f"{op}: every layer of the model must see all {length} tokens and the branch after them, "
                f"got {name}, whose layer {index} keeps a {type(layer).__name__}"
            )
