"""Forward passes of a Hugging Face model over a `TreeCache`: chains of tokens, siblings and trees of candidates.

A decoding loop is `chain_forward` over the prompts, then again and again `tree_forward`, a choice among its nodes, and
`cache.kv.advance`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mtp_ext.integrations.cache_argument import cache_option
from mtp_ext.integrations.tree_attention import (
    NAME,
    PASS_ARGUMENT,
    TreePass,
    check_attention,
    real_tokens,
)
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.kv_cache import KVCache
from mtp_ext.ops import checks
from mtp_ext.tree import TokenTree

_MASK_DTYPES = (torch.int64, torch.int32, torch.bool, torch.float32)


@torch.no_grad()
def chain_forward(
    model: PreTrainedModel,
    input_ids: Tensor,
    cache: TreeCache,
    *,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> ModelOutput:
    """Runs the next tokens of each request, one after the other, and keeps them in the cache: prefill and decoding.

    Args:
        model: with `attn_implementation="mtp_tree"`.
        input_ids: int64 [batch, tokens].
        cache: of as many requests.
        attention_mask: [batch, tokens], 0 for padding: before the first token of a request, which the cache
            remembers, or behind the last one, which it does not keep.
        options: for the model, such as `logits_to_keep=1` or `output_hidden_states=True`.

    Returns:
        The model's output, with `logits` [batch, tokens, vocab] where it has a head. Those of padding mean nothing.

    Raises:
        ValueError, TypeError: another attention, a wrong shape or dtype, a token that the model does not have,
            padding in the wrong place, too little room in the cache.
    """
    op = "chain_forward"
    _check(op, model, cache)
    check_tokens(op, "input_ids", input_ids, model, cache.kv.batch)
    chain = plan_chain(op, input_ids, attention_mask, cache.kv)
    output = _forward(op, model, input_ids, chain.positions, cache, chain.rows, options)
    chain.keep(cache.kv)
    return output


@torch.no_grad()
def sibling_forward(model: PreTrainedModel, tokens: Tensor, cache: TreeCache, **options: Any) -> ModelOutput:
    """Runs candidates for the next token behind the tokens in the cache, each seeing those and itself.

    A thousand of them are a normal input. Nothing is kept of them.

    Args:
        model: with `attn_implementation="mtp_tree"`.
        tokens: int64 [batch, nodes].
        cache: of as many requests, with room for the nodes.
        options: for the model, such as `output_hidden_states=True`.

    Returns:
        The model's output, with `logits` [batch, nodes, vocab] where it has a head.

    Raises:
        ValueError, TypeError: another attention, a wrong shape or dtype, a token that the model does not have, too
            little room in the cache.
    """
    op = "sibling_forward"
    _check(op, model, cache)
    check_tokens(op, "tokens", tokens, model, cache.kv.batch)
    kv, nodes = cache.kv, tokens.shape[1]
    node = torch.arange(nodes, device=tokens.device)
    itself = torch.zeros(nodes, (nodes + 63) // 64, dtype=torch.int64, device=tokens.device)
    itself[node, node // 64] = 1 << node % 64
    positions = (kv.lengths - kv.starts)[:, None].expand_as(tokens)
    tree_pass = TreePass(kv.lengths, itself.expand(kv.batch, -1, -1), starts=kv.starts)
    return _forward(op, model, tokens, positions, cache, tree_pass, options)


@torch.no_grad()
def tree_forward(model: PreTrainedModel, tree: TokenTree, cache: TreeCache, **options: Any) -> ModelOutput:
    """Runs all nodes of a tree behind the tokens in the cache, each seeing those and its own ancestors.

    Node i is written to row `cache.kv.lengths[b] + i` of the cache and not kept: the next pass writes over it, unless
    the caller says to the cache what to keep.

    Args:
        model: with `attn_implementation="mtp_tree"`.
        tree: its root is the last token of each request, which is not in the cache yet.
        cache: of as many requests, with room for the nodes.
        options: for the model, such as `output_hidden_states=True`.

    Returns:
        The model's output, with `logits` [batch, nodes, vocab] where it has a head. Those of padding mean nothing.

    Raises:
        ValueError, TypeError: another attention, a wrong shape, a token that the model does not have, too little room
            in the cache.
    """
    op = "tree_forward"
    if not isinstance(tree, TokenTree):
        raise TypeError(f"{op}: tree must be a TokenTree, got {type(tree).__name__}")
    _check(op, model, cache)
    tokens = tree.tokens.where(tree.parents != -2, 0)
    check_tokens(op, "tree.tokens", tokens, model, cache.kv.batch)
    kv = cache.kv
    tree_pass = TreePass(kv.lengths, tree.ancestors, tree.node_counts, kv.starts)
    return _forward(op, model, tokens, tree.position_ids(kv.lengths - kv.starts), cache, tree_pass, options)


@dataclass(frozen=True)
class Chain:
    """The next tokens of each request, one after the other, as a pass.

    Attributes:
        rows: what they see.
        positions: int64 [batch, tokens]; 0 for padding before the first one.
        ends: int64 [batch]: the rows that the cache keeps, which are the tokens and the padding before them.
    """

    rows: TreePass
    positions: Tensor
    ends: Tensor

    def keep(self, kv: KVCache) -> None:
        """The tokens are in the cache from now on."""
        assert self.rows.starts is not None
        kv.starts = self.rows.starts
        kv.advance(self.ends)


def plan_chain(op: str, input_ids: Tensor, attention_mask: Tensor | None, kv: KVCache) -> Chain:
    """The pass of these tokens, checked already, behind those in the cache; arguments as in `chain_forward`.

    Raises:
        ValueError, TypeError: a mask of a wrong shape or dtype, padding between tokens or behind those in the cache.
    """
    batch, tokens = input_ids.shape
    starts, ends, counts = kv.starts, input_ids.new_full((batch,), tokens), None
    if attention_mask is not None:
        check_attention_mask(op, input_ids, attention_mask)
        first, ends = real_tokens(op, attention_mask)
        begun = starts < kv.lengths
        idle = begun & (first == ends)  # nothing but padding, behind the last token
        first, ends = first.masked_fill(idle, 0), ends.masked_fill(idle, 0)
        if (begun & (first > 0)).any():
            raise ValueError(f"{op}: attention_mask must not begin with padding behind tokens in the cache")
        starts, counts = starts.where(begun, kv.lengths + first), ends
    positions = (kv.lengths - starts)[:, None] + torch.arange(tokens, device=input_ids.device)
    return Chain(TreePass(kv.lengths, None, counts, starts), positions.clamp_(min=0), ends)


def check_attention_mask(op: str, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Raises unless this is a mask [batch, tokens] of the tokens."""
    shape = list(zip(("batch", "tokens"), input_ids.shape, strict=True))
    checks.check_tensor(op, "attention_mask", attention_mask, shape, _MASK_DTYPES, input_ids)


def _forward(
    op: str,
    model: PreTrainedModel,
    tokens: Tensor,
    position_ids: Tensor,
    cache: TreeCache,
    tree_pass: TreePass,
    options: dict[str, Any],
) -> ModelOutput:
    options = {**options, **cache_option(type(model).forward, cache), PASS_ARGUMENT: tree_pass}
    with cache.running(tree_pass):
        output: ModelOutput = model(tokens, position_ids=position_ids, use_cache=True, **options)
    if tree_pass.layers < len(cache.kv.keys):
        raise ValueError(
            f"{op}: model must hand keyword arguments on to the attention of each layer, got {type(model).__name__}, "
            f"where {PASS_ARGUMENT!r} came to {tree_pass.layers} of {len(cache.kv.keys)} layers"
        )
    return output


def _check(op: str, model: PreTrainedModel, cache: TreeCache) -> None:
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{op}: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    if not isinstance(cache, TreeCache):
        raise TypeError(f"{op}: cache must be a TreeCache, got {type(cache).__name__}")
    if not cache.knows_padding:
        raise ValueError(f"{op}: cache must be filled by chain_forward, got one that the model itself has written to")
    check_attention(op, model.config.get_text_config(decoder=True))


def check_tokens(op: str, argument: str, tokens: Tensor, model: PreTrainedModel, batch: int | None = None) -> None:
    """Raises unless these are token ids [batch, tokens] that the model has, at least one."""
    embedding = model.get_input_embeddings().weight
    checks.check_tensor(op, argument, tokens, [("batch", batch), ("tokens", None)], [torch.int64], embedding)
    if tokens.numel() == 0:
        raise ValueError(f"{op}: {argument} must hold at least one token, got {list(tokens.shape)}")
    if checks.has_values(tokens):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= embedding.shape[0]:
            wrong = low if low < 0 else high
            raise ValueError(f"{op}: {argument} must be from 0 to {embedding.shape[0] - 1}, got {wrong}")


@contextmanager
def tree_attention_in(model: PreTrainedModel) -> Iterator[None]:
    """Runs the model with `attn_implementation="mtp_tree"`, and afterwards with its own again."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
