"""How many nodes a pass runs with: as many as bring most tokens a second, down to the root alone.

tokens a second of n nodes = (requests + sum over the first n nodes of P(accepted)) / seconds of a pass of n nodes
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mtp_ext.decoding.costs import MOST_NODES, PassCosts
from mtp_ext.tree import TokenTree

# The drafter's probability of a path, in bins; in each the estimate is corrected by what came true.
_BINS = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96])
_PRIOR = 1.0  # nodes accepted as foretold, in each bin at first
_MEMORY = 0.97  # what a pass counts for after each later one that has nodes of its bin
_MARGIN = 1.02  # a tree must promise this much more than plain decoding
_FREE = 0.01  # plain passes: a draft that takes less is made for every pass
# What may be lost on drafts that come to nothing, in plain passes: for each token that may be written, at the start,
# and for each pass.
_ALLOWANCE, _REFILL = 0.015, 0.01
_LARGEST_GAIN = 8.0  # plain passes of earlier gains that may be lost again


class Budget(Protocol):
    """Decides before each pass whether to draft, and how much of a draft to run."""

    most_nodes: int

    def wants_draft(self) -> bool: ...
    def choose(self, tree: TokenTree) -> int:
        """Nodes of this draft to run, a request, the root included."""

    def learn(self, outcome: "Outcome") -> None: ...
    def shrink(self, share: float) -> None:
        """Only this share of the requests is left."""

    def cost_curve(self) -> dict[int, float]: ...
    def explain(self, budgets: Counter[int]) -> str: ...


class Outcome:
    """What a pass came to.

    Args:
        draft: all that the drafter proposed, also what was cut off; None where nothing was.
        written: for each request the tokens that the target said, its next token included.
        nodes: that the pass ran with, a request.
        draft_seconds, pass_seconds: what drafting and the pass took.
    """

    def __init__(
        self,
        draft: TokenTree | None,
        written: Sequence[Sequence[int]],
        nodes: int,
        draft_seconds: float,
        pass_seconds: float,
    ) -> None:
        self.draft, self.written, self.nodes = draft, written, nodes
        self.draft_seconds, self.pass_seconds = draft_seconds, pass_seconds


class FixedBudget:
    """Always the same."""

    def __init__(self, nodes: int) -> None:
        self.most_nodes = nodes

    def wants_draft(self) -> bool:
        return self.most_nodes > 1

    def choose(self, tree: TokenTree) -> int:
        return min(self.most_nodes, tree.tokens.shape[1])

    def learn(self, outcome: Outcome) -> None:
        pass

    def shrink(self, share: float) -> None:
        pass

    def cost_curve(self) -> dict[int, float]:
        return {}

    def explain(self, budgets: Counter[int]) -> str:
        if self.most_nodes == 1:
            return "Plain decoding: one node a pass."
        return f"The budget was fixed at {self.most_nodes} nodes a request."


class Calibration:
    """How often paths of a drafter's estimated probability come true."""

    def __init__(self) -> None:
        self._foretold = np.full(len(_BINS) + 1, _PRIOR)  # sums of estimates
        self._true = np.full(len(_BINS) + 1, _PRIOR)

    def correct(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """What to expect where the drafter says `probabilities`, any shape."""
        factors = self._true / self._foretold
        corrected: NDArray[np.float64] = np.minimum(probabilities * factors[np.digitize(probabilities, _BINS)], 1.0)
        return corrected

    def learn(self, probabilities: Sequence[float], came_true: Sequence[bool]) -> None:
        bins = np.digitize(probabilities, _BINS)
        size = len(self._true)
        fade = np.where(np.bincount(bins, minlength=size), _MEMORY, 1.0)  # nothing is forgotten where nothing is new
        self._foretold = fade * self._foretold + np.bincount(bins, probabilities, size)
        self._true = fade * self._true + np.bincount(bins, came_true, size)


class AdaptiveBudget:
    """The budget with most tokens a second to expect.

    What every draft would have come to is known as far as the text was written, whether or not its nodes ran, so
    that acceptance is learnt without spending anything on it. Drafting itself costs time: its losses against plain
    decoding are kept within a few percent.

    Args:
        costs: of passes; goes on learning.
        max_new_tokens: of a request.
    """

    most_nodes = MOST_NODES

    def __init__(self, costs: PassCosts, max_new_tokens: int) -> None:
        self._costs = costs
        self._calibration = Calibration()
        self._credit = _ALLOWANCE * max_new_tokens  # plain passes
        self._draft_seconds: float | None = None
        self._passed = 0  # drafts that were made and not run
        self._undrafted = 0

    def shrink(self, share: float) -> None:
        self._costs = self._costs.for_batch(share)

    def cost_curve(self) -> dict[int, float]:
        return self._costs.table()

    def wants_draft(self) -> bool:
        is_free = self._draft_seconds is not None and self._draft_seconds < _FREE * self._costs.plain
        wants = is_free or self._credit > 0.0
        self._undrafted += not wants
        return wants

    def choose(self, tree: TokenTree) -> int:
        if self._credit <= 0.0:
            return 1
        expected = self._calibration.correct(_probabilities(tree)).sum(0).cumsum()  # tokens a pass of 1, 2, ... nodes
        nodes = min(len(expected), MOST_NODES)
        rates = expected[:nodes] / self._costs.up_to(nodes)
        best = int(rates.argmax())
        return best + 1 if rates[best] > _MARGIN * rates[0] else 1

    def learn(self, outcome: Outcome) -> None:
        if outcome.draft is not None:
            known = self._draft_seconds
            seconds = outcome.draft_seconds
            self._draft_seconds = seconds if known is None else 0.8 * known + 0.2 * seconds
            self._passed += outcome.nodes == 1
            self._calibration.learn(*_outcomes(outcome.draft, outcome.written))
            self._credit = min(self._credit + self._gain(outcome), _LARGEST_GAIN)
        self._credit += _REFILL
        self._costs.learn(outcome.nodes, outcome.pass_seconds)

    def _gain(self, outcome: Outcome) -> float:
        """What drafting has saved, in plain passes: those that would have written as much, less what was spent."""
        plain = self._costs.plain
        written = sum(map(len, outcome.written)) / len(outcome.written)
        # No more than twice what is usual: one hiccup is not the draft's fault. A plain pass is none of its cost.
        usual = float(self._costs.up_to(outcome.nodes)[-1])
        spent = plain if outcome.nodes == 1 else min(outcome.pass_seconds, 2.0 * usual)
        return written - (outcome.draft_seconds + spent) / plain

    def explain(self, budgets: Counter[int]) -> str:
        passes, plain = sum(budgets.values()), budgets[1]
        if not passes:
            return "No pass was needed."
        parts = []
        if trees := passes - plain:
            nodes = sum(size * count for size, count in budgets.items() if size > 1) / trees
            cost = float(self._costs.up_to(round(nodes))[-1]) / self._costs.plain
            parts.append(
                f"{trees} of {passes} passes ran a tree, of {nodes:.0f} nodes on average, at {cost:.2f} times the time "
                "of a plain pass"
            )
        if self._passed:
            parts.append(f"in {self._passed} no part of the draft promised more tokens a second than plain decoding")
        if self._undrafted:
            parts.append(f"in {self._undrafted} no draft was made, because earlier ones had not earned their time")
        sentence = "; ".join(parts) or "nothing was left to draft"
        return f"{sentence[0].upper()}{sentence[1:]}."


def _probabilities(tree: TokenTree) -> NDArray[np.float64]:
    """[batch, nodes]: the drafter's estimates; 1 for the root, 0 for padding."""
    if tree.log_probs is not None:
        estimates = tree.log_probs.double().exp()
    else:
        estimates = (0.5 ** tree.depths.double()).where(tree.parents != -2, 0.0)
    probabilities: NDArray[np.float64] = estimates.cpu().numpy()
    return probabilities


def _outcomes(tree: TokenTree, written: Sequence[Sequence[int]]) -> tuple[list[float], list[bool]]:
    """Of each node below a root whose outcome is known: the drafter's estimate, and whether the text took its path."""
    estimates, came_true = [], []
    rows = zip(tree.tokens.tolist(), tree.parents.tolist(), _probabilities(tree).tolist(), written, strict=True)
    for tokens, parents, probabilities, text in rows:
        # How far the text is known to agree with a node's path: -1 where it does not, None where it is too short.
        depths: list[int | None] = [0]
        for token, parent, probability in zip(tokens[1:], parents[1:], probabilities[1:], strict=True):
            if parent == -2:
                break
            depth = depths[parent]
            if depth is None or depth == len(text):
                depths.append(None)
                continue
            agrees = depth >= 0 and text[depth] == token
            depths.append(depth + 1 if agrees else -1)
            estimates.append(probability)
            came_true.append(agrees)
    return estimates, came_true
