"""Drafts from the text itself: wherever its last tokens stood before, it went on somehow."""

from collections.abc import Sequence

from mtp_ext import host
from mtp_ext.decoding.drafters import grow_tree
from mtp_ext.decoding.target import Target
from mtp_ext.tree import TokenTree


class PromptLookup:
    """All earlier occurrences of the text's last tokens, as a tree of what followed them.

    Longer matches count for more, by how well matches of their length have foretold this very text so far; a path's
    probability says when a draft is worth its time. Costs microseconds; pays wherever a text repeats itself or its
    prompt, as an edit, a summary or code does.

    Source: prediction by partial matching over the prompt, where prompt lookup takes the last match alone.
    """

    def start(self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> "LookupSession":
        return LookupSession(target, prompts)


class LookupSession:
    """One index a request."""

    def __init__(self, target: Target, prompts: Sequence[Sequence[int]]) -> None:
        self._device = target.device
        self._texts = [host.NgramIndex() for _ in prompts]
        self.observe(prompts)

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        drafts = [text.draft(nodes, depth) for text, depth in zip(self._texts, depths, strict=True)]
        return grow_tree(drafts, self._device)

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        for text, tokens in zip(self._texts, accepted, strict=True):
            text.extend(tokens)

    def select(self, requests: Sequence[int]) -> None:
        self._texts = [self._texts[request] for request in requests]
