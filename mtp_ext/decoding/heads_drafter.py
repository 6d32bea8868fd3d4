"""Drafts from MTP heads, which read the hidden states that the model left at the last token."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor

from mtp_ext.branches import select_branches
from mtp_ext.decoding.draft_head import DraftHead
from mtp_ext.decoding.drafters import ReadingSession, roots_alone
from mtp_ext.decoding.exchange import ExchangedLinears
from mtp_ext.decoding.prefix_drafts import PrefixSession
from mtp_ext.decoding.sequential_drafts import SequentialSession
from mtp_ext.decoding.target import Target, readable
from mtp_ext.heads import MTPHeads
from mtp_ext.ops.checks import check_range
from mtp_ext.tree import TokenTree


class HeadsDrafter:
    """Trees from the distributions of MTP heads: level d holds what the head of horizon d + 1 finds most probable.

    A draft costs the heads and one product with the unembedding, which they share with the model, or with its rows of
    the heads' `draft_tokens`; of sequential and prefix heads, whose levels are conditioned on the tokens above them, a
    product for each level.

    Args:
        heads: of the model that they draft for; the first one's horizon must be 1 or 2. They draft as they are when the
            drafter first meets a target.
        width: tokens of a level that are considered.

    Raises:
        ValueError, TypeError: a number out of its range, heads without one of horizon 2.
    """

    def __init__(self, heads: MTPHeads, *, width: int = 8) -> None:
        if 2 not in heads.config.horizons:
            raise ValueError(
                f"HeadsDrafter: heads must have a head of horizon 2, got horizons {list(heads.config.horizons)}"
            )
        check_range("HeadsDrafter", "width", width, 1, 1024)
        self.heads, self.width = heads, width
        self._target: Target | None = None  # the last one, its LM head for drafts, and the heads that draft for it
        self._head: DraftHead
        self._drafting: MTPHeads

    def start(self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> ReadingSession:
        """As `Drafter.start`.

        Raises:
            ValueError: a target that does not show its hidden states, or one of another vocabulary.
        """
        vocab = self.heads.config.base.vocab
        if vocab != target.vocab:
            raise ValueError(
                "HeadsDrafter: heads must be of the model they draft for, "
                f"got heads for {vocab} tokens and a model of {target.vocab}"
            )
        if self._target is not target:
            tokens = self.heads.draft_tokens
            self._head = DraftHead(readable("HeadsDrafter", target).draft_head(tokens), tokens)
            self._drafting = _packed(self.heads) if target.device.type == "cpu" else self.heads
            self._target = target
        roots = [prompt[-1] for prompt in prompts]
        heads = self._drafting
        width = self.width if heads.draft_tokens is None else min(self.width, len(heads.draft_tokens))
        if heads.config.kind == "prefix":
            return PrefixSession(heads, self._head, target.device, width, prompts)
        if heads.config.kind == "sequential":
            return SequentialSession(heads, self._head, target.device, width, roots)
        return HeadsSession(heads, self._head, target.device, width, roots)


def _packed(heads: MTPHeads) -> MTPHeads:
    """A copy of the heads whose linear layers read half the bytes, where their weights are bfloat16 numbers, as those
    of stored heads are."""
    copy = deepcopy(heads)
    ExchangedLinears(copy, None)
    return copy


class HeadsSession:
    """The hidden states of the last token of each text."""

    def __init__(self, heads: MTPHeads, head: DraftHead, device: torch.device, width: int, roots: list[int]) -> None:
        self.layers: Sequence[int] = heads.config.layers
        self._width, self._head, self._device, self._roots = width, head, device, roots
        horizons = heads.config.horizons
        first = horizons.index(2)
        # Levels of a tree follow one another: a head behind a gap has none to hang on.
        self._ranks = [i for i, n in enumerate(horizons) if i >= first and n == 2 + i - first]
        make = LastStates if heads.config.kind == "mlp" else CachedStates
        self._states: States = make(heads, len(roots))

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        levels = min(len(self._ranks), max(depths))
        if nodes <= 1 or levels == 0:
            return roots_alone(self._roots, self._device)
        hidden = self._states.hidden()[:, self._ranks[:levels]]  # [batch, levels, hidden]
        top = select_branches(self._head.logits(hidden).flatten(0, 1), top_p=1.0, top_k=self._width)
        tokens, log_probs = (x.view(len(self._roots), levels, -1) for x in (top.tokens, top.log_probs))
        tokens = self._head.tokens_of(tokens)
        limits = torch.tensor(depths, device=tokens.device)[:, None, None]
        beyond = torch.arange(levels, device=tokens.device)[:, None] >= limits
        log_probs = log_probs.masked_fill(beyond | (tokens < 0), -torch.inf)
        roots = torch.tensor(self._roots, device=tokens.device)
        return TokenTree.best_first(roots, tokens, log_probs, budget=nodes)

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        self._states.read(layer_outputs, rows)

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        for request, tokens in enumerate(accepted):
            if tokens:
                self._roots[request] = tokens[-1]

    def select(self, requests: Sequence[int]) -> None:
        self._roots = [self._roots[request] for request in requests]
        self._states.select(requests)


class States(Protocol):
    """What heads have read of a batch of texts."""

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None: ...
    def select(self, requests: Sequence[int]) -> None: ...
    def hidden(self) -> Tensor:
        """[batch, heads, hidden]: the heads' hidden states at the last token of each text."""


class LastStates:
    """Of heads that need those of the last token alone."""

    def __init__(self, heads: MTPHeads, batch: int) -> None:
        self._heads = heads
        self._layers: list[Tensor] = []  # [batch, 1, hidden] each

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        last = torch.tensor([kept[-1] for kept in rows], device=layer_outputs[0].device)
        request = torch.arange(len(rows), device=last.device)
        self._layers = [layer[request, last][:, None] for layer in layer_outputs]

    def select(self, requests: Sequence[int]) -> None:
        self._layers = [layer[list(requests)] for layer in self._layers]

    def hidden(self) -> Tensor:
        return torch.cat(self._heads.from_layers(_as_read(self._heads, self._layers)), 1)


class CachedStates:
    """Of heads that attend to earlier tokens: a text each."""

    def __init__(self, heads: MTPHeads, batch: int) -> None:
        self._texts = [CachedText(heads) for _ in range(batch)]

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        for request, (text, kept) in enumerate(zip(self._texts, rows, strict=True)):
            text.read([layer[request, list(kept)] for layer in layer_outputs])

    def select(self, requests: Sequence[int]) -> None:
        self._texts = [self._texts[request] for request in requests]

    def hidden(self) -> Tensor:
        return torch.stack([text.hidden() for text in self._texts])


class CachedText:
    """The heads' keys and values of one text, and the states that are not among them yet."""

    def __init__(self, heads: MTPHeads) -> None:
        self._heads, self._caches = heads, heads.new_caches()
        self._pending: list[Sequence[Tensor]] = []  # of each pass [tokens, hidden] a layer
        self._hidden: Tensor | None = None

    def read(self, layers: Sequence[Tensor]) -> None:
        self._pending.append(layers)
        if self._hidden is None:
            self.hidden()  # the prompt: here, so that the time of a draft is that of a draft

    def hidden(self) -> Tensor:
        """[heads, hidden]: at the last token."""
        if self._pending:
            layers = [torch.cat(states)[None] for states in zip(*self._pending, strict=True)]
            outputs = self._heads.from_layers(_as_read(self._heads, layers), caches=self._caches)
            self._hidden = torch.stack([hidden[0, -1] for hidden in outputs])
            self._pending = []
        assert self._hidden is not None
        return self._hidden


def _as_read(heads: MTPHeads, layers: Sequence[Tensor]) -> list[Tensor]:
    """In the heads' dtype, which is the model's; a lean pass is in float32."""
    return [layer.to(heads.unembedding.dtype) for layer in layers]
