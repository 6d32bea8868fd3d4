"""The budget: the best number of nodes by cost and promise, learnt from what came true, and never dear."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mtp_ext.decoding import grow_tree
from mtp_ext.decoding.budget import AdaptiveBudget, Calibration, FixedBudget, Outcome
from mtp_ext.decoding.costs import MOST_NODES, SIZES, PassCosts, measured_costs
from mtp_ext.tree import TokenTree

FLAT = {1: 0.010, 8: 0.011, 64: 0.080}  # up to 8 nodes nearly nothing, then much
PASSES = 2000


def chain(*probabilities: float) -> TokenTree:
    """Tokens 1, 2, 3, ... below token 0, each with its path's probability."""
    nodes = len(probabilities) + 1
    return grow_tree([(range(nodes), range(-1, nodes - 1), [0.0, *map(math.log, probabilities)])])


def budget(costs: dict[int, float] = FLAT, max_new_tokens: int = 128) -> AdaptiveBudget:
    return AdaptiveBudget(PassCosts(costs), max_new_tokens)


def test_most_tokens_a_second() -> None:
    for probabilities in ([0.9, 0.8, 0.7], [0.5] * 20, [0.99**i for i in range(1, 60)], [0.001] * 63):
        costs = PassCosts(FLAT)
        rates = [
            (1.0 + sum(probabilities[: nodes - 1])) / costs.up_to(nodes)[-1]
            for nodes in range(1, len(probabilities) + 2)
        ]
        best = max(range(len(rates)), key=lambda place: rates[place])
        assert budget().choose(chain(*probabilities)) == best + 1


def test_no_promise_no_tree() -> None:
    assert budget().choose(chain(0.01, 0.001)) == 1
    assert budget({1: 0.01, 2: 0.02, 64: 0.6}).choose(chain(0.9, 0.5)) == 1, "0.9 of a token for a whole pass"


def test_without_estimates_deeper_counts_half() -> None:
    tree = chain(0.1, 0.1)
    bare = TokenTree(tree.tokens, tree.parents)
    assert budget({1: 0.010, 2: 0.011, 3: 0.0112, 64: 1.0}).choose(bare) == 3


def outcome(draft: TokenTree | None, written: Sequence[int], nodes: int, costs: dict[int, float] = FLAT) -> Outcome:
    seconds = float(PassCosts(costs).up_to(nodes)[-1])
    return Outcome(draft, [written], nodes, draft_seconds=0.0, pass_seconds=seconds)


def test_a_boaster_is_found_out() -> None:
    chooser = budget()
    draft = chain(0.9, 0.8, 0.7, 0.6)
    assert chooser.choose(draft) == 5
    for _ in range(60):
        chooser.learn(outcome(draft, [9], chooser.choose(draft)))
    assert chooser.choose(draft) == 1


def test_what_was_cut_off_teaches_too() -> None:
    chooser = budget({1: 0.01, 2: 0.02, 64: 0.6})
    modest = chain(0.3, 0.1)
    assert chooser.choose(modest) == 1
    for _ in range(60):  # plain passes: the next token is always the drafted one
        chooser.learn(outcome(modest, [1], 1))
    cheap = budget({1: 0.01, 2: 0.0125, 64: 0.6})
    assert cheap.choose(chain(0.2)) == 1
    for _ in range(60):
        cheap.learn(outcome(chain(0.2), [1], 1))
    assert cheap.choose(chain(0.2)) == 2


def test_calibration() -> None:
    calibration = Calibration()
    estimates = np.array([0.01, 0.3, 0.95])
    assert np.array_equal(calibration.correct(estimates), estimates), "the drafter is believed at first"
    for i in range(300):
        calibration.learn([0.3], [i % 10 == 0])
    assert calibration.correct(np.array([0.3]))[0] == pytest.approx(0.1, abs=0.05)
    assert calibration.correct(np.array([0.95]))[0] == 0.95, "the others are not concerned"
    for _ in range(300):
        calibration.learn([0.95], [True])
    assert calibration.correct(np.array([0.95]))[0] <= 1.0


@pytest.mark.parametrize("draft_seconds", [0.0, 0.001, 0.02, 0.5])
@pytest.mark.parametrize("costs", [FLAT, {1: 0.010, 2: 0.018, 64: 0.5}])
def test_never_slower_than_plain(draft_seconds: float, costs: dict[int, float]) -> None:
    """With drafts that promise much and never come true, all costs counted."""
    chooser = budget(costs, PASSES)
    curve = PassCosts(costs)
    draft, spent, drafted = chain(0.9, 0.8, 0.7), 0.0, 0
    for _ in range(PASSES):
        nodes, proposed = 1, None
        if chooser.wants_draft():
            proposed, drafted = draft, drafted + 1
            nodes = chooser.choose(draft)
        drafting = draft_seconds if proposed is not None else 0.0
        seconds = float(curve.up_to(nodes)[-1])
        chooser.learn(Outcome(proposed, [[9]], nodes, drafting, seconds))
        spent += drafting + seconds
    # What it may spend, and the last draft, which is only known when it has been made.
    assert spent <= 1.025 * PASSES * costs[1] + draft_seconds + float(curve.up_to(4)[-1])
    assert drafted >= 1
    if draft_seconds:
        assert "no draft was made, because" in chooser.explain(Counter({1: PASSES}))


def test_dear_drafts_that_come_true_are_made() -> None:
    chooser = budget()
    draft = chain(0.9, 0.85, 0.8, 0.75)
    for _ in range(100):
        assert chooser.wants_draft()
        chooser.learn(Outcome(draft, [[1, 2, 3, 4, 9]], chooser.choose(draft), 0.02, 0.011))


def test_fixed() -> None:
    chooser = FixedBudget(3)
    assert chooser.wants_draft()
    assert chooser.choose(chain(0.1, 0.1, 0.1)) == 3
    assert chooser.choose(chain(0.1)) == 2
    assert not FixedBudget(1).wants_draft()


def test_explanations() -> None:
    chooser = budget()
    assert chooser.explain(Counter()) == "No pass was needed."
    assert chooser.explain(Counter({1: 1})) == "Nothing was left to draft."
    chooser = budget(max_new_tokens=0)
    assert not chooser.wants_draft()
    for _ in range(2):
        chooser.learn(outcome(chain(0.1), [9], 1))
    assert chooser.explain(Counter({8: 4, 6: 1, 1: 3})) == (
        "5 of 8 passes ran a tree, of 8 nodes on average, at 1.10 times the time of a plain pass; in 2 no part of the "
        "draft promised more tokens a second than plain decoding; in 1 no draft was made, because earlier ones had not "
        "earned their time."
    )


# ---- Costs ------------------------------------------------------------------------------------------------


def test_between_sizes_costs_are_linear() -> None:
    costs = PassCosts({1: 1.0, 4: 4.0, 8: 2.0})
    assert costs.plain == 1.0
    assert costs.up_to(8).tolist() == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0], "more nodes never take less"
    assert np.all(np.diff(costs.up_to(MOST_NODES)) >= 0)
    assert costs.up_to(MOST_NODES)[-1] > 4.0


def test_costs_follow_what_is_seen() -> None:
    costs = PassCosts(FLAT)
    for _ in range(100):
        costs.learn(8, 0.022)
    assert costs.up_to(8)[-1] == pytest.approx(0.022, rel=0.05)
    assert costs.plain > FLAT[1], "a busy machine is busy for all sizes"
    costs = PassCosts(FLAT)
    costs.learn(8, 100.0)
    assert costs.up_to(8)[-1] < 1.25 * FLAT[8], "one hiccup does not decide"


def test_a_smaller_batch_costs_as_its_rows() -> None:
    costs = PassCosts({1: 1.0, 64: 64.0}).for_batch(0.5)
    assert costs.up_to(8)[-1] == pytest.approx(4.0)
    assert costs.plain == 1.0


class Model:
    """Something that costs are measured of."""


def test_costs_are_measured_once() -> None:
    asked: list[int] = []
    target = Model()
    first = measured_costs(target, 1, True, asked.append)  # type: ignore[arg-type]
    assert set(asked) == set(SIZES)
    asked.clear()
    assert measured_costs(target, 1, True, asked.append) is first  # type: ignore[arg-type]
    assert asked == []
    measured_costs(target, 2, True, asked.append)  # type: ignore[arg-type]
    assert asked
    threads = torch.get_num_threads()
    try:
        asked.clear()
        torch.set_num_threads(threads + 1)
        measured_costs(target, 1, True, asked.append)  # type: ignore[arg-type]
        assert asked
    finally:
        torch.set_num_threads(threads)
