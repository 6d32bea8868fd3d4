"""The law of what a verification method writes, by exact enumeration: over all drafts that can be drawn, and over the
uniforms, whose thresholds are found by bisection. A method is looked at from outside, so that this serves every one."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

import mtp_ext
from mtp_ext.reference.truncate import truncated_softmax
from mtp_ext.verify import Accepted

STEPS = 16  # of bisection: thresholds are known to 2^-16
ALMOST_ONE = 1.0 - 2.0**-24  # the largest uniform: refuses whatever can be refused
Law = dict[tuple[int, ...], float]  # by the tokens that are written


@dataclass
class Language:
    """A target and a drafter over a tiny vocabulary, each with a distribution of its own after every context.

    Attributes:
        vocab: tokens.
        seed: of the distributions.
        spread: standard deviation of the logits; larger is more peaked.
        likeness: from 0, a drafter that knows nothing of the target, to 1, one that is the target.
        dead: a token that the target never writes, or None.
        unknown: a token that the drafter never draws, or None.
    """

    vocab: int
    seed: int = 0
    spread: float = 1.0
    likeness: float = 0.3
    dead: int | None = None
    unknown: int | None = None
    _known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def _logits(self, context: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if context not in self._known:
            generator = torch.Generator().manual_seed(hash((self.seed, context)) % 2**31)
            target, other = torch.randn(2, self.vocab, generator=generator) * self.spread
            draft = self.likeness * target + (1.0 - self.likeness) * other
            for logits, token in ((target, self.dead), (draft, self.unknown)):
                if token is not None:
                    logits[token] = -torch.inf
            self._known[context] = target, draft.log_softmax(-1)
        return self._known[context]

    def target(self, context: tuple[int, ...]) -> Tensor:
        """Logits [vocab]."""
        return self._logits(context)[0]

    def draft(self, context: tuple[int, ...]) -> Tensor:
        """Log-probabilities [vocab]."""
        return self._logits(context)[1]


def contexts_of(parents: Sequence[int], tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """The tokens from the root's child to each node."""
    contexts: list[tuple[int, ...]] = [()]
    for parent, token in zip(parents[1:], tokens[1:], strict=True):
        contexts.append((*contexts[parent], token))
    return contexts


def drawings(language: Language, parents: Sequence[int]) -> Iterator[tuple[list[int], float]]:
    """Tokens [nodes] of every tree of this shape that can be drawn, siblings without replacement, and how likely it
    is."""

    def extend(tokens: list[int], weight: float) -> Iterator[tuple[list[int], float]]:
        node = len(tokens)
        if node == len(parents):
            yield tokens, weight
            return
        q = language.draft(contexts_of(parents[:node], tokens)[parents[node]]).double().exp()
        q[[tokens[i] for i in range(1, node) if parents[i] == parents[node]]] = 0.0
        for token, probability in enumerate((q / q.sum()).tolist()):
            if probability > 0:
                yield from extend([*tokens, token], weight * probability)

    yield from extend([0], 1.0)


@dataclass
class Trial:
    """Trees of one shape, one a request, and the method that verifies them."""

    language: Language
    parents: list[int]
    tokens: list[list[int]]
    method: str
    settings: dict[str, Any]
    device: str = "cpu"

    def __post_init__(self) -> None:
        count, nodes = len(self.tokens), len(self.parents)
        contexts = [contexts_of(self.parents, tokens) for tokens in self.tokens]
        self.logits = torch.stack([self.language.target(one) for tree in contexts for one in tree]).view(
            count, nodes, self.language.vocab
        )
        self.drafts: dict[str, Tensor] = {}
        if self.method in ("without_replacement", "traversal"):
            distinct = sorted({one for tree in contexts for one in tree})
            row_of = {context: row for row, context in enumerate(distinct)}
            rows = [[-1, *(row_of[tree[parent]] for parent in self.parents[1:])] for tree in contexts]
            log_probs = torch.stack([self.language.draft(one) for one in distinct])
            self.drafts = {"draft_log_probs": log_probs, "draft_rows": torch.tensor(rows)}

    def run(self, requests: Sequence[int], uniforms: Tensor) -> Accepted:
        """Verifies these trees, [len(requests), nodes + 1] uniforms."""
        tree = mtp_ext.TokenTree(
            torch.tensor([self.tokens[request] for request in requests]).to(self.device),
            torch.tensor([self.parents] * len(requests)).to(self.device),
        )
        drafts = {name: (x[requests] if name == "draft_rows" else x).to(self.device) for name, x in self.drafts.items()}
        inputs = self.logits[requests].to(self.device), uniforms.float().to(self.device)
        result = mtp_ext.verify_sampling(tree, *inputs, method=self.method, **drafts, **self.settings)
        return Accepted(*[part.cpu() for part in result])

    # Each node is considered in one situation alone, since its drafts are given: by `refused`, its elders, and, from
    # the root down, by `accepted`, its ancestors.

    def considered(self) -> list[int]:
        """The nodes in the order in which a traversal considers them."""

        def below(node: int) -> Iterator[int]:
            for child in range(1, len(self.parents)):
                if self.parents[child] == node:
                    yield from below(child)
            yield node

        return list(below(0))

    def situation(self, node: int) -> list[float]:
        """Uniforms under which `node` is considered, and accepted if it can be; its children are refused."""
        if self.method == "traversal":
            order = self.considered()
            elders = set(order[: order.index(node)])
        else:
            path = {node}
            while (parent := self.parents[min(path)]) >= 0:
                path.add(parent)
            elders = {i for i, parent in enumerate(self.parents) if parent in path and i not in path}
        return [ALMOST_ONE if i in elders else 0.0 for i in range(len(self.parents) + 1)]

    def thresholds(self) -> tuple[Tensor, Tensor]:
        """rates [trees, nodes]: where a node's uniform begins to refuse it; and shares [trees, nodes, vocab + 1]: where
        the last uniform begins to give each token after a path that ends there."""
        count, nodes, vocab = len(self.tokens), len(self.parents), self.language.vocab
        queries = list(product(range(count), range(nodes), range(vocab)))  # at `vocab` - 1 the node itself
        requests = [request for request, _, _ in queries]
        uniforms = torch.tensor([self.situation(node) for _, node, _ in queries])
        row = torch.arange(len(queries))
        node, token = (torch.tensor([query[i] for query in queries]) for i in (1, 2))
        column = torch.where(token == vocab - 1, node, nodes)
        low = torch.zeros(len(queries), dtype=torch.int64)
        high = torch.full_like(low, 2**STEPS)
        while (low < high).any():
            middle = (low + high) // 2
            uniforms[row, column] = (middle / 2**STEPS).float().clamp(max=ALMOST_ONE)
            accepted = self.run(requests, uniforms)
            on_path = (accepted.nodes == node[:, None]).any(1)
            below = torch.where(token == vocab - 1, on_path, accepted.next_tokens <= token)
            moving = low < high
            low, high = torch.where(moving & below, middle + 1, low), torch.where(moving & ~below, middle, high)
        found = (low.double() / 2**STEPS).clamp(max=1.0).view(count, nodes, vocab)
        ends = torch.nn.functional.pad(found[..., : vocab - 1], (1, 0)), torch.ones(count, nodes, 1, dtype=torch.double)
        return found[..., vocab - 1], torch.cat(ends, -1)

    def laws(self) -> list[Law]:
        """Of each tree, what is written: the accepted tokens and the one that follows."""
        rates, shares = self.thresholds()
        return [
            self._law(*each) for each in zip(self.tokens, rates.tolist(), shares.diff(dim=-1).tolist(), strict=True)
        ]

    def _law(self, tokens: list[int], rates: list[float], shares: list[list[float]]) -> Law:
        law: Law = defaultdict(float)
        contexts = contexts_of(self.parents, tokens)
        for node, ends in enumerate(self._ends([1.0, *rates[1:]])):
            for token, share in enumerate(shares[node]):
                law[*contexts[node], token] += ends * share
        return law

    def _ends(self, rates: list[float]) -> list[float]:
        """[nodes]: how often the path ends at each."""
        ends = [0.0] * len(rates)
        if self.method == "traversal":
            left = 1.0
            for node in self.considered():
                ends[node] = left * rates[node]
                left *= 1.0 - rates[node]
            return ends
        ends[0] = 1.0
        for node, parent in enumerate(self.parents[1:], start=1):  # what has reached the parent and passed its elders
            ends[node] = ends[parent] * rates[node]
            ends[parent] *= 1.0 - rates[node]
        return ends


def law_of(
    language: Language,
    parents: list[int],
    method: str,
    tokens: list[int] | None = None,
    device: str = "cpu",
    **settings: Any,
) -> Law:
    """What is written after one verification, over all drafts: `tokens` where they are chosen, or drawn."""
    drafts = [(tokens, 1.0)] if tokens is not None else list(drawings(language, parents))
    trial = Trial(language, parents, [tree for tree, _ in drafts], method, settings, device)
    law: Law = defaultdict(float)
    for one, (_, weight) in zip(trial.laws(), drafts, strict=True):
        for written, probability in one.items():
            law[written] += weight * probability
    return law


def expected_length(law: Law) -> float:
    """Tokens that one verification writes."""
    return sum(len(written) * probability for written, probability in law.items())


def law_budget(parents: list[int], language: Language) -> float:
    """What a probability or a length may be off by: a threshold is by 2^-STEPS at most, twice with rounding."""
    return 2.0 * (len(parents) + language.vocab) * 2.0**-STEPS


def assert_lossless(law: Law, language: Language, parents: list[int], **settings: Any) -> None:
    """Fails unless what is written, carried on by the target itself, is distributed as the target's own samples."""
    horizon = max(len(written) for written in law)
    limits = [settings.get(name) for name in ("temperature", "top_k", "top_p", "min_p")]
    limits[0] = 1.0 if limits[0] is None else limits[0]
    budget = law_budget(parents, language)

    def probability(context: tuple[int, ...], token: int) -> float:
        p = truncated_softmax(language.target(context), *limits)
        assert p is not None
        return float(p[token])

    for sequence in product(range(language.vocab), repeat=horizon):
        actual, carried_on = 0.0, 1.0
        for length in range(horizon, 0, -1):
            actual += law.get(sequence[:length], 0.0) * carried_on
            carried_on *= probability(sequence[: length - 1], sequence[length - 1])
        assert abs(actual - carried_on) <= budget, (
            f"{sequence}: {actual:.7f}, the target writes it with {carried_on:.7f}"
        )
