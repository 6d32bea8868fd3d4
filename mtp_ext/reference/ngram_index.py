"""Continuations of a text by its own n-grams: the definition of correct for csrc/host/ngram_index.cpp."""

import heapq
import math
from typing import NamedTuple

ORDERS = (4, 2, 1)  # n-grams whose occurrences are chained: a frequent token hides no rare longer match
FOLLOWED = 64  # the latest occurrences of each
LONGEST = 16  # longer matches count as this long
PRIOR_WEIGHT = 4.0  # observations that the first guess at a length's trust is worth
MEMORY = 0.98  # what an observation counts for after each later one of the same length


class Occurrence(NamedTuple):
    """An earlier place where the text's last tokens stand.

    Attributes:
        end: index of the last of them.
        length: how many agree, at most LONGEST.
    """

    end: int
    length: int


class NgramIndex:
    """One text, and how it may go on: as it did wherever its last tokens stood before.

    All occurrences speak, those of longer matches first. The probability of a token behind a node, among the
    occurrences that agree with the node's path, is

        p(x) = sum over lengths l, longest first, of trust(l) * share of x behind the matches of at least l
                                                    * product over longer l' of (1 - trust(l'))

    as in prediction by partial matching. trust(l) is how often, in this very text and lately, the next token was one
    of those behind its longest matches, when these were of length l; at first l / (l + 2). A step along a path
    makes each match one longer.

    Time for a token is bounded, whatever the text's length: of each n-gram the 64 latest occurrences are followed.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._latest: list[dict[tuple[int, ...], int]] = [{} for _ in ORDERS]
        self._previous: list[list[int]] = [[] for _ in ORDERS]
        self._hits = [0.0] * (LONGEST + 1)
        self._trials = [0.0] * (LONGEST + 1)
        self._occurrences: list[Occurrence] = []

    def extend(self, tokens: list[int]) -> None:
        """The text goes on with these tokens."""
        for token in tokens:
            self._learn(token)
            self._tokens.append(token)
            for order, latest, previous in zip(ORDERS, self._latest, self._previous, strict=True):
                ngram = tuple(self._tokens[-order:])
                place = len(self._tokens) - 1
                previous.append(latest.get(ngram, -1) if len(ngram) == order else -1)
                if len(ngram) == order:
                    latest[ngram] = place
            self._occurrences = self._find()

    def draft(self, nodes: int, depth: int) -> tuple[list[int], list[int], list[float]]:
        """The most probable continuations, as a tree below the last token.

        Args:
            nodes: at most so many, the root included.
            depth: at most so many tokens on a path below the root.

        Returns:
            Tokens, parents and path log-probabilities (nats) of the nodes, in descending order of probability; ties
            go to the child that was found first.

        Raises:
            ValueError: an empty text.
        """
        if not self._tokens:
            raise ValueError("NgramIndex: the text must have a token before its first draft")
        tokens, parents, log_probs, depths = [self._tokens[-1]], [-1], [0.0], [0]
        offers: list[tuple[float, int, int, int, list[Occurrence]]] = []  # minus log-probability, order, ...
        offered = 0

        def offer_children(node: int, occurrences: list[Occurrence]) -> None:
            nonlocal offered
            for token, (probability, followers) in self._children(occurrences).items():
                log_prob = log_probs[node] + math.log(probability)
                heapq.heappush(offers, (-log_prob, offered, node, token, followers))
                offered += 1

        if depth > 0:
            offer_children(0, self._occurrences)
        while offers and len(tokens) < nodes:
            negative, _, parent, token, occurrences = heapq.heappop(offers)
            tokens.append(token)
            parents.append(parent)
            log_probs.append(-negative)
            depths.append(depths[parent] + 1)
            if depths[-1] < depth:
                offer_children(len(tokens) - 1, occurrences)
        return tokens, parents, log_probs

    def _learn(self, token: int) -> None:
        if not self._occurrences:
            return
        longest = self._occurrences[0].length
        self._trials[longest] = MEMORY * self._trials[longest] + 1.0
        self._hits[longest] *= MEMORY
        if any(self._tokens[end + 1] == token for end, length in self._occurrences if length == longest):
            self._hits[longest] += 1.0

    def _trust(self, length: int) -> float:
        prior = PRIOR_WEIGHT * length / (length + 2)
        return (self._hits[length] + prior) / (self._trials[length] + PRIOR_WEIGHT)

    def _find(self) -> list[Occurrence]:
        """Earlier occurrences of the last tokens: longest matches first, then the latest."""
        last = len(self._tokens) - 1
        ends: set[int] = set()
        for previous in self._previous:
            end = previous[last]
            for _ in range(FOLLOWED):
                if end < 0:
                    break
                ends.add(end)
                end = previous[end]
        occurrences = [Occurrence(end, self._match_length(end, last)) for end in ends]
        return sorted(occurrences, key=lambda occurrence: (-occurrence.length, -occurrence.end))

    def _match_length(self, end: int, last: int) -> int:
        length = 0
        while length < LONGEST and length <= end and self._tokens[end - length] == self._tokens[last - length]:
            length += 1
        return length

    def _children(self, occurrences: list[Occurrence]) -> dict[int, tuple[float, list[Occurrence]]]:
        """What follows `occurrences`, longest first: each token's probability, and the occurrences one token on."""
        children: dict[int, tuple[float, list[Occurrence]]] = {}
        remaining, seen, begin = 1.0, 0, 0
        going_on = [occurrence for occurrence in occurrences if occurrence.end + 1 < len(self._tokens)]
        while begin < len(going_on):
            length = going_on[begin].length
            end = begin
            while end < len(going_on) and going_on[end].length == length:
                token = self._tokens[going_on[end].end + 1]
                probability, followers = children.get(token, (0.0, []))
                followers.append(Occurrence(going_on[end].end + 1, min(length + 1, LONGEST)))
                children[token] = (probability, followers)
                end += 1
            seen = end
            share = remaining * self._trust(length) / seen
            for token, (probability, followers) in children.items():
                children[token] = (probability + share * len(followers), followers)
            remaining *= 1.0 - self._trust(length)
            begin = end
        return children
