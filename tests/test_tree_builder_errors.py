"""Every refusal of the tree builders, word for word."""

import math
from typing import Any

import pytest
import torch
from token_trees import SMALL_TREE, roots, small_joint

from mtp_ext import TopPairs
from mtp_ext.tree import TokenTree

CANDIDATES = torch.arange(8).view(1, 2, 4)
UNLIKELY = torch.full((1, 2, 4), -2.0)


def refused(error: type[Exception], name: str, *arguments: Any, **options: Any) -> str:
    """What the builder says when it refuses."""
    with pytest.raises(error) as caught:
        getattr(TokenTree, name)(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["from_choices", "from_paths", "best_first", "from_joint"])
def test_wrong_root_tokens(name: str) -> None:
    rest: dict[str, tuple[Any, ...]] = {
        "from_choices": (SMALL_TREE, CANDIDATES),
        "from_paths": ([[]],),
        "best_first": (CANDIDATES, UNLIKELY),
        "from_joint": small_joint(),
    }
    options = {"budget": 3} if name in ("best_first", "from_joint") else {}
    assert refused(ValueError, name, torch.tensor([-1]), *rest[name], **options) == (
        f"TokenTree.{name}: root_tokens[0] must be a token id from 0, got -1"
    )
    assert refused(TypeError, name, 5, *rest[name], **options) == (
        f"TokenTree.{name}: root_tokens must be a Tensor, got int"
    )
    assert refused(ValueError, name, torch.tensor([[5]]), *rest[name], **options) == (
        f"TokenTree.{name}: root_tokens must be [batch] int64 on cpu, got [1, 1] int64 on cpu"
    )


def test_wrong_choices() -> None:
    name = "from_choices"
    assert refused(ValueError, name, roots(1), [(0,), (0, 0), (0, 0, 0)], CANDIDATES) == (
        "TokenTree.from_choices: choices must be paths of 1 to depth=2 ranks, got (0, 0, 0)"
    )
    assert refused(ValueError, name, roots(1), [()], CANDIDATES) == (
        "TokenTree.from_choices: choices must be paths of 1 to depth=2 ranks, got ()"
    )
    assert refused(ValueError, name, roots(1), [(0,), (4,)], CANDIDATES) == (
        "TokenTree.from_choices: choices must hold ranks from 0 to k - 1 = 3, got (4,)"
    )
    assert refused(ValueError, name, roots(1), [(0,), (-1,)], CANDIDATES) == (
        "TokenTree.from_choices: choices must hold ranks from 0 to k - 1 = 3, got (-1,)"
    )
    assert refused(ValueError, name, roots(1), [(0,), (1, 0)], CANDIDATES) == (
        "TokenTree.from_choices: choices must hold the parent of each path, got (1, 0) without (1,)"
    )
    assert refused(ValueError, name, roots(3), SMALL_TREE, CANDIDATES) == (
        "TokenTree.from_choices: candidate_tokens must be [batch=3, depth, k] int64 on cpu, got [1, 2, 4] int64 on cpu"
    )


def test_wrong_paths() -> None:
    assert refused(ValueError, "from_paths", roots(2), [[[1]]]) == (
        "TokenTree.from_paths: paths must be one list of paths for each of batch=2 requests, got 1"
    )
    assert refused(ValueError, "from_paths", roots(2), [[[1]], [[1], [2, -1]]]) == (
        "TokenTree.from_paths: paths[1][1] must hold token ids from 0, got -1"
    )
    assert refused(ValueError, "from_paths", roots(1), [[[1.5]]]) == (
        "TokenTree.from_paths: paths[0][0] must hold token ids from 0, got 1.5"
    )


@pytest.mark.parametrize("name", ["from_paths", "best_first", "from_joint"])
def test_wrong_budgets(name: str) -> None:
    batch = 2 if name == "from_joint" else 1
    rest: dict[str, tuple[Any, ...]] = {
        "from_paths": ([[]],),
        "best_first": (CANDIDATES, UNLIKELY),
        "from_joint": small_joint(),
    }
    call = (name, roots(batch), *rest[name])
    assert refused(ValueError, *call, budget=0) == (f"TokenTree.{name}: budget must be from 1 to 1048576, got 0")
    assert refused(ValueError, *call, budget=[4] * (batch + 1)) == (
        f"TokenTree.{name}: budget must be one number, or one for each of batch={batch} requests, got {batch + 1}"
    )
    assert refused(TypeError, *call, budget=[2.5] * batch) == (
        f"TokenTree.{name}: budget must be an integer, got float"
    )


def test_wrong_candidates() -> None:
    call = ("best_first", roots(1), CANDIDATES)
    assert refused(ValueError, *call, UNLIKELY[:, :1], budget=3) == (
        "TokenTree.best_first: candidate_log_probs must be [batch=1, depth=2, k=4] float32 on cpu, "
        "got [1, 1, 4] float32 on cpu"
    )
    assert refused(TypeError, *call, UNLIKELY.double(), budget=3) == (
        "TokenTree.best_first: candidate_log_probs must be [batch=1, depth=2, k=4] float32 on cpu, "
        "got [1, 2, 4] float64 on cpu"
    )
    for value in (math.nan, 0.5, math.inf):
        log_probs = UNLIKELY.clone()
        log_probs[0, 1, 2] = value
        assert refused(ValueError, *call, log_probs, budget=3) == (
            f"TokenTree.best_first: candidate_log_probs must be at most 0 (nats), got {value:g} at [0, 1, 2]"
        )


def test_wrong_pairs() -> None:
    branches, pairs = small_joint()
    pairs.branches[1, 0] = 1
    assert refused(ValueError, "from_joint", roots(2), branches, pairs, budget=3) == (
        "TokenTree.from_joint: pairs.branches[1, 0] must be one of the 1 branches of its request, got 1"
    )
    pairs.branches[1, 0] = 2
    assert refused(ValueError, "from_joint", roots(2), branches, pairs, budget=3) == (
        "TokenTree.from_joint: pairs.branches[1, 0] must be one of the 1 branches of its request, got 2"
    )
    pairs.log_probs[1, 0], pairs.branches[1, 0], pairs.tokens[1, 0] = math.nan, -1, -1
    assert refused(ValueError, "from_joint", roots(2), branches, pairs, budget=3) == (
        "TokenTree.from_joint: pairs.log_probs must be at most 0 (nats), got nan at [1, 0]"
    )
    assert refused(ValueError, "from_joint", roots(2), branches, TopPairs(*(x[:1] for x in pairs)), budget=3) == (
        "TokenTree.from_joint: pairs.log_probs must be [batch=2, k] float32 on cpu, got [1, 3] float32 on cpu"
    )


def test_wrong_rates() -> None:
    for rates in ([0.6, 0.5], [-0.1], [math.nan], [1.5]):
        assert refused(ValueError, "optimal_shape", rates, 4) == (
            "TokenTree.optimal_shape: acceptance_rates must be probabilities whose sum is at most 1, since at most "
            f"one child is accepted, got {rates}"
        )
    for option, low in (("nodes", 1), ("max_depth", 0), ("max_branching", 0)):
        options = {"nodes": 4, option: low - 1}
        assert refused(ValueError, "optimal_shape", [0.5], **options) == (
            f"TokenTree.optimal_shape: {option} must be from {low} to 8192, got {low - 1}"
        )
