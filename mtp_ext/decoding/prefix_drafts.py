"""Drafts from prefix MTP heads: as from sequential ones, and each looks back at the text."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtp_ext.decoding.draft_head import DraftHead
from mtp_ext.decoding.sequential_drafts import SequentialSession
from mtp_ext.heads import MTPHeads, Prefix
from mtp_ext.tree import TokenTree


class PrefixSession(SequentialSession):
    """Of each text also the heads' keys and values, and the states and tokens that are not among them yet.

    Args:
        heads: prefix heads.
        head: for drafts.
        device: of the target.
        width: nodes of a level.
        prompts: of the batch.
    """

    def __init__(
        self,
        heads: MTPHeads,
        head: DraftHead,
        device: torch.device,
        width: int,
        prompts: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(heads, head, device, width, [prompt[-1] for prompt in prompts])
        self._texts = [_Text(heads, prompt[1:]) for prompt in prompts]

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        if nodes > 1:
            texts = [text.catch_up() for text in self._texts]
            keys, values = (
                pad_sequence([kept.transpose(0, 1) for kept in part], True) for part in zip(*texts, strict=True)
            )
            last = torch.tensor([[keys.shape[1] - 1] for keys, _ in texts], device=self._device)
            self._prefix = Prefix(keys.transpose(1, 2), values.transpose(1, 2), last)
        return super().propose(nodes, depths)

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        super().read(layer_outputs, rows)
        for request, (text, kept) in enumerate(zip(self._texts, rows, strict=True)):
            text.states.append([layer[request, list(kept)] for layer in layer_outputs])

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        super().observe(accepted)
        for text, tokens in zip(self._texts, accepted, strict=True):
            text.tokens += tokens

    def select(self, requests: Sequence[int]) -> None:
        super().select(requests)
        self._texts = [self._texts[request] for request in requests]

    def _follow(self, level: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self._heads.follow(level, hidden, tokens, self._prefix)


class _Text:
    """What heads keep of one text, and what is still to be read.

    Attributes:
        states: of each pass, of each layer [tokens, hidden].
        tokens: those behind the tokens of these states.
    """

    def __init__(self, heads: MTPHeads, tokens: Sequence[int]) -> None:
        self._heads = heads
        self.states: list[list[Tensor]] = []
        self.tokens = list(tokens)
        self._kept: tuple[Tensor, Tensor] | None = None

    def catch_up(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [key heads, places, 64] each, of all places."""
        if self.states:
            dtype = self._heads.unembedding.dtype
            layers = [torch.cat(parts)[None].to(dtype) for parts in zip(*self.states, strict=True)]
            tokens = torch.tensor([self.tokens], device=layers[0].device)
            first = 0 if self._kept is None else self._kept[0].shape[1]
            keys, values = (part[0] for part in self._heads.read(layers, tokens, first))
            if self._kept is not None:
                keys, values = (torch.cat(pair, 1) for pair in zip(self._kept, (keys, values), strict=True))
            self._kept, self.states, self.tokens = (keys, values), [], []
        assert self._kept is not None
        return self._kept
