"""Drafters for tests: one that knows the text, and recordings of what a target is asked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext import KVCache, TokenTree
from mtp_ext.decoding import Target, TargetPass, grow_tree


class Foresight:
    """Knows what each request will write, and proposes it between two wrong siblings a level; without log_probs."""

    def __init__(self, texts: Sequence[Sequence[int]], vocab: int) -> None:
        self.texts, self.vocab = texts, vocab

    def start(self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> "ForesightSession":
        return ForesightSession(self, prompts)


class ForesightSession:
    def __init__(self, drafter: Foresight, prompts: Sequence[Sequence[int]]) -> None:
        self.drafter = drafter
        self.roots = [prompt[-1] for prompt in prompts]
        self.texts = [list(text) for text in drafter.texts]

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        drafts = []
        for root, text, depth in zip(self.roots, self.texts, depths, strict=True):
            tokens, parents, right = [root], [-1], 0
            for token in text[:depth]:
                for shift in (1, 0, 2):
                    tokens.append((token + shift) % self.drafter.vocab)
                    parents.append(right)
                right = len(tokens) - 2
            drafts.append((tokens[:nodes], parents[:nodes], [0.0] * min(nodes, len(tokens))))
        tree = grow_tree(drafts)
        return TokenTree(tree.tokens, tree.parents)

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        for request, tokens in enumerate(accepted):
            if tokens:
                self.roots[request] = tokens[-1]
                self.texts[request] = self.texts[request][len(tokens) :]

    def select(self, requests: Sequence[int]) -> None:
        self.roots = [self.roots[request] for request in requests]
        self.texts = [self.texts[request] for request in requests]


class Recorded:
    """A target that remembers its caches and how many requests and nodes its passes ran."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.vocab, self.max_positions = target.vocab, target.max_positions
        self.dtype, self.device = target.dtype, target.device
        self.caches: list[KVCache] = []
        self.passes: list[tuple[int, ...]] = []

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        self.caches.append(self._target.new_cache(batch, capacity))
        return self.caches[-1]

    def prefill(self, input_ids: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> TargetPass:
        return self._target.prefill(input_ids, cache, attention_mask)

    def run_tree(self, tree: TokenTree, cache: KVCache) -> TargetPass:
        self.passes.append(tuple(tree.tokens.shape))
        return self._target.run_tree(tree, cache)


class Failing(Recorded):
    """Raises, or gives logits of NaN, from a pass on."""

    def __init__(self, target: Target, passes: int, error: BaseException | None) -> None:
        super().__init__(target)
        self.left, self.error = passes, error

    def run_tree(self, tree: TokenTree, cache: KVCache) -> TargetPass:
        self.left -= 1
        if self.left >= 0:
            return super().run_tree(tree, cache)
        if self.error is not None:
            raise self.error
        return Numbness(tree, self.vocab)


class Numbness:
    """A pass whose logits are NaN."""

    hidden = None

    def __init__(self, tree: TokenTree, vocab: int) -> None:
        self.shape, self.vocab = tree.tokens.shape, vocab

    def logits(self) -> Tensor:
        return torch.full((*self.shape, self.vocab), torch.nan)

    def best_tokens(self) -> Tensor:
        return torch.full(self.shape, -1)
