"""The model that a decoding loop writes with: what the loop needs of it, and any transformers model as such a target.

A loop is `prefill` over the prompts, then again and again `run_tree`, a choice among the nodes, and `commit_`, which
keeps the chosen rows.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from mtp_ext.integrations.cache_argument import cache_argument
from mtp_ext.integrations.prefix import serves_trees
from mtp_ext.integrations.tree_attention import NAME
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.integrations.tree_model import (
    Chain,
    chain_forward,
    check_tokens,
    plan_chain,
    tree_attention_in,
    tree_forward,
)
from mtp_ext.kv_cache import KVCache
from mtp_ext.ops import checks
from mtp_ext.tree import TokenTree

_UNLIMITED = 2**31 - 1


class TargetPass(Protocol):
    """What one pass over a tree gave. The LM head runs when it is asked for, and only as far."""

    @property
    def hidden(self) -> Tensor | None:
        """[batch, nodes, hidden]: what the LM head reads, the last hidden states after the final norm; None where the
        target does not show them."""

    @property
    def layer_outputs(self) -> Sequence[Tensor]:
        """[batch, nodes, hidden] of each layer that `Target.keeping` named; of a prefill [batch, tokens, hidden]."""

    def logits(self) -> Tensor:
        """float32 [batch, nodes, vocab]. Those of padding mean nothing."""

    def best_tokens(self) -> Tensor:
        """int64 [batch, nodes]: the token of the largest logit, ties to the lower id; -1 where that logit is not a
        finite number: a row with NaN or +inf, or nothing but -inf."""


class Target(Protocol):
    """A causal language model as a decoding loop needs it. It keeps no state but its weights.

    Attributes:
        vocab: tokens that have a logit.
        max_positions: the longest sequence that it has positions for.
        dtype, device: of hidden states, keys and values.
    """

    vocab: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache, with `capacity` rows for each request: its tokens and the nodes of the largest tree."""

    def prefill(self, input_ids: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> TargetPass:
        """Runs the next tokens of each request, one after the other, and keeps them in the cache.

        Args:
            input_ids: int64 [batch, tokens].
            cache: from `new_cache`; empty, or behind the tokens that it holds.
            attention_mask: [batch, tokens], 0 for padding: before a request's first token or behind its last one.

        Returns:
            The pass, [batch, 1]: of each request's last token.

        Raises:
            ValueError, TypeError: a wrong shape or dtype, a token that the model does not have, a request without a
                token, padding between tokens, too little room in the cache, more tokens than positions.
        """

    def run_tree(self, tree: TokenTree, cache: KVCache) -> TargetPass:
        """Runs all nodes of a tree behind the tokens in the cache, each seeing those and its own ancestors.

        Node i is written to row `cache.lengths[b] + i` and not kept: the next pass writes over it, unless `commit_`
        says which rows stay.

        Returns:
            The pass, [batch, nodes].

        Raises:
            ValueError, TypeError: a wrong shape, a token that the model does not have, too little room in the cache,
                a node deeper than the last position.
        """


class ReadableTarget(Target, Protocol):
    """A target that lets others read its hidden states, and use its LM head."""

    def keeping(self, layers: Sequence[int]) -> "ReadableTarget":
        """The same target, whose passes keep `layer_outputs` of these layers, ascending and counted from 1; the last
        layer's are after the final norm."""

    def draft_head(self, tokens: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """An LM head for drafts: float32 [..., vocab] of hidden states [..., hidden] after the final norm, or
        [..., len(tokens)], of these tokens alone. What drafts cost counts more than their last digits, so its weights
        may be rounded to bfloat16."""


def readable(op: str, target: Target) -> ReadableTarget:
    """The target, as one whose hidden states others may read.

    Raises:
        ValueError: it does not show them.
    """
    if not hasattr(target, "keeping"):
        raise ValueError(
            f"{op}: the target must show its hidden states, as a ReadableTarget does, got {type(target).__name__}"
        )
    return cast(ReadableTarget, target)


def best_tokens(logits: Tensor) -> Tensor:
    """As `TargetPass.best_tokens`, of logits [..., vocab]."""
    best = logits.max(-1)  # the first of equal ones; NaN where there is one
    return best.indices.where(best.values.isfinite(), -1)


def position_limit(model: PreTrainedModel) -> int:
    """The longest sequence that the model has positions for; one without a limit of its own has 2^31 - 1."""
    limit: int | None = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit or _UNLIMITED


def check_model(op: str, model: Any) -> None:
    """Raises unless tree attention serves this model, by position ids.

    Raises:
        TypeError: not a transformers model.
        ValueError: a model that it does not serve.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{op}: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    if not serves_trees(model):
        raise ValueError(
            f"{op}: model must be a causal decoder whose layers all attend through transformers' attention "
            "interface, over all tokens or a sliding window, with heads of 16 to 256 numbers, "
            f"got {type(model).__name__}"
        )
    for argument in ("position_ids", "logits_to_keep"):
        if argument not in inspect.signature(model.forward).parameters:
            raise ValueError(f"{op}: model must take {argument}, got {type(model).__name__}, which does not")
    if cache_argument(type(model).forward) is None:
        raise ValueError(f"{op}: model must take a cache, got {type(model).__name__}, which does not")


def check_prompts(op: str, chain: Chain, cache: KVCache, max_positions: int) -> None:
    """Raises a ValueError unless each request of `Target.prefill` has a token, and a position for each of them."""
    assert chain.rows.starts is not None
    tokens = chain.ends - (chain.rows.starts - cache.lengths).clamp(min=0)  # without the padding before them
    if (empty := tokens == 0).any():
        request = int(empty.nonzero()[0])
        raise ValueError(f"{op}: attention_mask must leave a token of each request, got none of request {request}")
    _check_positions(op, tokens, cache, max_positions)


def check_tree(op: str, tree: TokenTree, cache: KVCache, max_positions: int) -> None:
    """Raises unless this is a tree for each request of the cache, and each node has a position."""
    if not isinstance(tree, TokenTree):
        raise TypeError(f"{op}: tree must be a TokenTree, got {type(tree).__name__}")
    checks.check_tensor(op, "tree.tokens", tree.tokens, [("batch", cache.batch), ("nodes", None)], [torch.int64])
    if tree.tokens.shape[1] == 0:
        raise ValueError(f"{op}: tree must have at least one node, got {list(tree.tokens.shape)}")
    _check_positions(op, tree.depths.amax(1) + 1, cache, max_positions)


def _check_positions(op: str, tokens: Tensor, cache: KVCache, max_positions: int) -> None:
    after = cache.lengths - cache.starts + tokens
    if (beyond := after > max_positions).any():
        request = int(beyond.nonzero()[0])
        raise ValueError(
            f"{op}: the model must have a position for each token, "
            f"got {max_positions} positions and {int(after[request])} tokens of request {request}"
        )


class TransformersPass:
    """The logits of one pass, as the model gave them: [batch, nodes, vocab]."""

    hidden = None

    def __init__(self, logits: Tensor, layer_outputs: Sequence[Tensor] = ()) -> None:
        self._logits = logits
        self.layer_outputs = layer_outputs

    def logits(self) -> Tensor:
        return self._logits.float()

    def best_tokens(self) -> Tensor:
        return best_tokens(self._logits)


class TransformersTarget:
    """Any Hugging Face model whose layers go through transformers' attention interface, with `tree_attention`.

    The model stays as it is: its attention is exchanged only while a pass runs.

    Args:
        model: a causal language model in evaluation mode.

    Raises:
        TypeError: not a transformers model.
        ValueError: a model that tree attention cannot serve, or that goes by no position ids.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_model("TransformersTarget", model)
        self.model = model
        self.vocab: int = model.config.get_text_config(decoder=True).vocab_size
        self.max_positions = position_limit(model)
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self._cache = TreeCache(model, 1, 1)  # of which each pass makes a copy with the rows it is given
        self._kept: Sequence[int] = ()

    def __repr__(self) -> str:
        return f"TransformersTarget({type(self.model).__name__})"

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        return KVCache(batch, capacity, device=self.device)

    def prefill(self, input_ids: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> TransformersPass:
        op = "prefill"
        check_tokens(op, "input_ids", input_ids, self.model, cache.batch)
        chain = plan_chain(op, input_ids, attention_mask, cache)
        check_prompts(op, chain, cache, self.max_positions)
        kept, place = (chain.ends - 1).unique(return_inverse=True)
        options = {"attention_mask": attention_mask, "logits_to_keep": kept} | self._options()
        with self._attention():
            output = chain_forward(self.model, input_ids, self._over(cache), **options)
        logits = output.logits[torch.arange(cache.batch, device=place.device), place][:, None]
        return TransformersPass(logits, self._kept_of(output))

    def run_tree(self, tree: TokenTree, cache: KVCache) -> TransformersPass:
        op = "run_tree"
        check_tree(op, tree, cache, self.max_positions)
        with self._attention():
            output = tree_forward(self.model, tree, self._over(cache), **self._options())
        return TransformersPass(output.logits, self._kept_of(output))

    def keeping(self, layers: Sequence[int]) -> "TransformersTarget":
        target = copy(self)
        target._kept = layers
        return target

    def draft_head(self, tokens: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        head: Any = self.model.get_output_embeddings()
        if tokens is not None:
            bias = None if head.bias is None else head.bias[tokens]
            head = partial(linear, weight=head.weight[tokens], bias=bias)
        softcap = getattr(self.model.config.get_text_config(decoder=True), "final_logit_softcapping", None)

        @torch.no_grad()
        def logits_of(hidden: Tensor) -> Tensor:
            logits: Tensor = head(hidden.to(self.dtype)).float()
            return logits if softcap is None else (logits / softcap).tanh() * softcap

        return logits_of

    def _options(self) -> dict[str, Any]:
        return {"output_hidden_states": True} if self._kept else {}

    def _kept_of(self, output: Any) -> list[Tensor]:
        return [output.hidden_states[layer] for layer in self._kept]

    def _attention(self) -> AbstractContextManager[None]:
        return nullcontext() if self.model.config._attn_implementation == NAME else tree_attention_in(self.model)

    def _over(self, cache: KVCache) -> TreeCache:
        over = copy(self._cache)
        over.kv = cache
        return over
