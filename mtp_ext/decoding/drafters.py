"""What proposes the tokens that a pass of the model verifies: the interface of all drafters."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from mtp_ext.decoding.target import Target
from mtp_ext.tree import TokenTree

# Of one request: tokens, parents and path log-probabilities (nats) of its nodes, the root first.
Draft = tuple[Sequence[int], Sequence[int], Sequence[float]]


class DraftSession(Protocol):
    """The drafts of one batch of requests while their texts grow."""

    def propose(self, nodes: int, depths: Sequence[int]) -> TokenTree:
        """How each text may go on.

        The tree's root is the request's last token. Siblings hold different tokens, chosen by a fixed rule and not
        sampled, so that `target_only` keeps the model's distribution. With `log_probs` (natural logarithms of the
        estimated probability that the text takes the node's path) nodes come in descending order: the loop then cuts
        each tree where further nodes do not pay. Without them a node at depth d counts as 0.5 ** d.

        Args:
            nodes: of each request at most, the root included.
            depths: of each request, the most edges below the root; 0: the root alone.

        Returns:
            A tree for each request, in the target's vocabulary.
        """

    def observe(self, accepted: Sequence[Sequence[int]]) -> None:
        """Each request's text goes on with these tokens; the last of them is the next root."""

    def select(self, requests: Sequence[int]) -> None:
        """From now on only these requests of the batch are left, by index, in this order: the others are finished."""


class ReadingSession(DraftSession, Protocol):
    """One that drafts from the target's hidden states; the target must be a `ReadableTarget`.

    Attributes:
        layers: whose outputs it reads, as in `ReadableTarget.keeping`.
    """

    layers: Sequence[int]

    def read(self, layer_outputs: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> None:
        """What the layers gave for the tokens that were kept last; called after the prompts and after each pass,
        before `observe`.

        Args:
            layer_outputs: of each layer [batch, nodes, hidden].
            rows: of each request those of the tokens that it keeps.
        """


class Drafter(Protocol):
    """Proposes trees of candidate tokens. One drafter serves any number of calls of `generate`.

    A drafter of your own is a class with `start`, which returns an object with the three methods of `DraftSession`,
    or with those of `ReadingSession`;
    `grow_tree` makes its `TokenTree` from lists. A wrong draft costs time and never changes the text.
    """

    def start(self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> DraftSession:
        """Begins with a batch of prompts, token ids without padding, that grow by at most `max_new_tokens`.

        Raises:
            ValueError: the drafter does not fit the target.
        """


def is_reading(session: DraftSession | None) -> TypeGuard[ReadingSession]:
    return hasattr(session, "read")


def grow_tree(drafts: Sequence[Draft], device: torch.device | str = "cpu") -> TokenTree:
    """The requests' drafts, padded to the widest, as one tree; not validated."""
    nodes = max(len(tokens) for tokens, _, _ in drafts)

    def column(place: int, padding: float, dtype: torch.dtype) -> torch.Tensor:
        rows = [[*draft[place], *[padding] * (nodes - len(draft[place]))] for draft in drafts]
        return torch.tensor(rows, dtype=dtype, device=device)

    tokens, parents = column(0, 0, torch.int64), column(1, -2, torch.int64)
    return TokenTree(tokens, parents, column(2, -math.inf, torch.float32), validate=False)


def roots_alone(tokens: Sequence[int], device: torch.device | str = "cpu") -> TokenTree:
    """The trees of plain decoding: one node a request."""
    roots = torch.tensor(tokens, device=device)[:, None]
    return TokenTree(roots, torch.full_like(roots, -1), validate=False)


def check_draft(tree: TokenTree, roots: Sequence[int], nodes: int, vocab: int) -> None:
    """Raises a ValueError unless this is a tree below each of `roots`, of at most `nodes` nodes and known tokens."""
    if tree.tokens.shape[0] != len(roots) or tree.tokens[:, 0].tolist() != list(roots):
        raise ValueError(
            f"propose: the roots of a draft must be the last tokens, {list(roots)}, got {tree.tokens[:, 0].tolist()}"
        )
    if tree.tokens.shape[1] > nodes:
        raise ValueError(f"propose: a draft must have at most {nodes} nodes, got {tree.tokens.shape[1]}")
    if (largest := int(tree.tokens.max())) >= vocab:
        raise ValueError(
            f"propose: a draft must be of the {vocab} tokens of the model it is for, got token {largest}; do both "
            "share a tokenizer?"
        )
