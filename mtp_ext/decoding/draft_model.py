"""Drafts from a smaller model with the same tokenizer, or from the first layers of the same model."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtp_ext.branches import select_branches
from mtp_ext.decoding.drafters import grow_tree
from mtp_ext.decoding.growing_tree import GrowingTree
from mtp_ext.decoding.target import Target, TransformersTarget
from mtp_ext.marginalize import joint_topk
from mtp_ext.ops.checks import check_range
from mtp_ext.tree import TokenTree


class DraftModel:
    """A tree that a faster model grows: the most probable tokens, then the most probable pairs of a leaf and a token
    behind it, level by level, each level one pass of that model over the tree so far.

    Args:
        model: a transformers model, or any `Target`, with the vocabulary of the model that it drafts for.
        depth: levels at most.
        width: nodes of a level.
        least_mass: a further level is grown only while the text is on one of the paths so far with at least this
            probability, by the drafter's own estimate.

    Raises:
        ValueError, TypeError: a number out of its range, a model that tree attention cannot serve.
    """

    def __init__(
        self, model: PreTrainedModel | Target, *, depth: int = 4, width: int = 4, least_mass: float = 0.3
    ) -> None:
        check_range("DraftModel", "depth", depth, 1, 64)
        check_range("DraftModel", "width", width, 1, 1024)
        if not 0.0 <= least_mass <= 1.0:
            raise ValueError(f"DraftModel: least_mass must be in [0, 1], got {least_mass}")
        self.target: Target = TransformersTarget(model) if isinstance(model, PreTrainedModel) else model
        self.depth, self.width, self.least_mass = depth, width, least_mass

    def start(self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> "DraftModelSession":
        """As `Drafter.start`.

        Raises:
            ValueError: another vocabulary, or too few positions for these texts.
        """
        draft = self.target
        if draft.vocab != target.vocab:
            raise ValueError(
                "DraftModel: model must share the tokenizer of the model it drafts for, "
                f"got {draft.vocab} tokens for {target.vocab}"
            )
        longest = max(len(prompt) for prompt in prompts) + max_new_tokens
        if longest > draft.max_positions:
            raise ValueError(
                f"DraftModel: model must have a position for each of {longest} tokens, got {draft.max_positions}"
            )
        return DraftModelSession(self, prompts, longest)


class DraftModelSession:
    """The draft model's cache of each text, and the tokens that are not in it yet."""

    def __init__(self, drafter: DraftModel, prompts: Sequence[Sequence[int]], longest: int) -> None:
        self._drafter, self._target = drafter, drafter.target
        self._cache = self._target.new_cache(len(prompts), longest + 1 + drafter.depth * drafter.width)
        self._pending = [list(prompt) for prompt in prompts]
        self._catch_up()  # here, so that the time of a draft is that of a draft

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        drafter = self._drafter
        first = select_branches(self._catch_up(), top_k=drafter.width)
        limits = torch.tensor(depths, device=self._target.device)
        root = torch.tensor(self._pending, device=self._target.device)  # [batch, 1]
        tree = GrowingTree(root, limits).with_level(first.tokens, torch.zeros_like(first.tokens), first.log_probs)
        for _ in range(1, min(drafter.depth, max(depths))):
            if nodes <= 1 or tree.mass() < drafter.least_mass:
                break
            logits = self._target.run_tree(tree.as_tree(), self._cache).logits()[:, -drafter.width :]
            pairs = joint_topk(logits, tree.leaf_log_probs, k=drafter.width)
            tree = tree.with_level(pairs.tokens, tree.first_leaf + pairs.branches, pairs.log_probs)
        return grow_tree(tree.best(nodes), self._target.device)

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        for pending, tokens in zip(self._pending, accepted, strict=True):
            pending.extend(tokens)

    def select(self, requests: Sequence[int]) -> None:
        self._pending = [self._pending[request] for request in requests]
        self._cache = self._cache.select(torch.tensor(requests, device=self._target.device))

    def _catch_up(self) -> Tensor:
        """Runs the pending tokens; all but the last, the next root, stay in the cache.

        Returns:
            float32 [batch, vocab]: the logits of what follows.
        """
        longest = max(map(len, self._pending))
        rows = [pending + [0] * (longest - len(pending)) for pending in self._pending]
        real = [[1] * len(pending) + [0] * (longest - len(pending)) for pending in self._pending]
        device = self._target.device
        mask = torch.tensor(real, device=device)
        logits = self._target.prefill(torch.tensor(rows, device=device), self._cache, mask).logits()[:, -1]
        self._cache.crop(self._cache.lengths - 1)
        self._pending = [pending[-1:] for pending in self._pending]
        return logits


def first_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The first layers of a model with its final norm and LM head, as a model that shares its weights.

    `DraftModel(prepare(first_layers(model, 8)))` drafts with them. A model that was trained to exit early drafts well
    so; for others a later exit is better, and costs more.

    Raises:
        ValueError, TypeError: more layers than there are, a model without a list of layers.
    """
    all_layers = getattr(getattr(model, "base_model", None), "layers", None)
    if not isinstance(model, PreTrainedModel) or not isinstance(all_layers, nn.ModuleList):
        raise TypeError(
            f"first_layers: model must be a transformers model with a list of layers, got {type(model).__name__}"
        )
    check_range("first_layers", "layers", layers, 1, len(all_layers))
    decoder, shortened = _shallow_copy(model.base_model), _shallow_copy(model)
    decoder.layers = all_layers[:layers]
    setattr(shortened, model.base_model_prefix, decoder)
    return shortened


def _shallow_copy(module: PreTrainedModel) -> PreTrainedModel:
    """The same parameters and submodules, in a module whose submodules can be exchanged."""
    shared = copy(module)
    shared._modules = dict(module._modules)
    return shared
