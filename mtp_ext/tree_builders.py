"""Trees of candidate tokens, grown request by request on the host. `TokenTree` documents each of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtp_ext import host
from mtp_ext.branches import Branches
from mtp_ext.marginalize import TopPairs
from mtp_ext.ops.checks import Dimension, check_range, check_tensor

_LARGEST_BUDGET = 1 << 20  # keeps a mistyped budget from filling the memory
_LARGEST_SHAPE = 1 << 13  # its time grows with the square
_ROUNDING = 1e-3  # nats, or a probability: above what float32 may make of 0 or of 1

Budget = int | Sequence[int]


class TreeShape(NamedTuple):
    """A tree without tokens.

    Attributes:
        choices: for each node but the root, the ranks of the children on its path; level by level.
        expected_length: the expected number of accepted tokens, the root included.
    """

    choices: list[tuple[int, ...]]
    expected_length: float


class Grown(NamedTuple):
    """The columns of a `TokenTree`: tokens and parents int64 [batch, nodes], log_probs float32 or None."""

    tokens: Tensor
    parents: Tensor
    log_probs: Tensor | None


def grow_from_choices(root_tokens: Tensor, choices: Sequence[Sequence[int]], candidate_tokens: Tensor) -> Grown:
    op = "TokenTree.from_choices"
    roots = _root_tokens(op, root_tokens)
    shape: list[Dimension] = [("batch", len(roots)), ("depth", None), ("k", None)]
    check_tensor(op, "candidate_tokens", candidate_tokens, shape, [torch.int64], root_tokens)
    ordered = _order_choices(op, choices, *candidate_tokens.shape[1:])
    grown = []
    for root_token, candidates in zip(roots, candidate_tokens.tolist(), strict=True):
        paths = [[candidates[depth][rank] for depth, rank in enumerate(choice)] for choice in ordered]
        paths = [path for path in paths if min(path) >= 0]
        grown.append(host.merge_paths(root_token, paths, len(ordered) + 1)[:2])
    return _stack(grown, root_tokens.device)


def _order_choices(op: str, choices: Sequence[Sequence[int]], depth: int, k: int) -> list[tuple[int, ...]]:
    """Level by level, as Medusa sorts them."""
    known = {tuple(choice) for choice in choices}
    ordered = sorted(known, key=lambda choice: (len(choice), choice))
    for choice in ordered:
        if not 1 <= len(choice) <= depth:
            raise ValueError(f"{op}: choices must be paths of 1 to depth={depth} ranks, got {choice}")
        if not all(0 <= rank < k for rank in choice):
            raise ValueError(f"{op}: choices must hold ranks from 0 to k - 1 = {k - 1}, got {choice}")
        if len(choice) > 1 and choice[:-1] not in known:
            raise ValueError(f"{op}: choices must hold the parent of each path, got {choice} without {choice[:-1]}")
    return ordered


def grow_from_paths(root_tokens: Tensor, paths: Sequence[Sequence[Sequence[int]]], budget: Budget | None) -> Grown:
    op = "TokenTree.from_paths"
    roots = _root_tokens(op, root_tokens)
    batch = len(roots)
    if len(paths) != batch:
        raise ValueError(f"{op}: paths must be one list of paths for each of batch={batch} requests, got {len(paths)}")
    for request, request_paths in enumerate(paths):
        for i, path in enumerate(request_paths):
            for token in path:
                if not isinstance(token, int) or token < 0:
                    raise ValueError(f"{op}: paths[{request}][{i}] must hold token ids from 0, got {token!r}")
    budgets = [_LARGEST_BUDGET] * batch if budget is None else _budgets(op, budget, batch)
    requests = zip(roots, paths, budgets, strict=True)
    return _stack([host.merge_paths(*request)[:2] for request in requests], root_tokens.device)


def grow_best_first(
    root_tokens: Tensor, candidate_tokens: Tensor, candidate_log_probs: Tensor, budget: Budget
) -> Grown:
    op = "TokenTree.best_first"
    roots = _root_tokens(op, root_tokens)
    shape: list[Dimension] = [("batch", len(roots)), ("depth", None), ("k", None)]
    check_tensor(op, "candidate_tokens", candidate_tokens, shape, [torch.int64], root_tokens)
    shape = list(zip(("batch", "depth", "k"), candidate_tokens.shape, strict=True))
    check_tensor(op, "candidate_log_probs", candidate_log_probs, shape, [torch.float32], root_tokens)
    requests = zip(
        roots,
        candidate_tokens.tolist(),
        _log_probs(op, "candidate_log_probs", candidate_log_probs),
        _budgets(op, budget, len(roots)),
        strict=True,
    )
    return _stack([host.best_first(*request) for request in requests], root_tokens.device, weighted=True)


def grow_from_joint(root_tokens: Tensor, branches: Branches, pairs: TopPairs, budget: Budget) -> Grown:
    op = "TokenTree.from_joint"
    roots = _root_tokens(op, root_tokens)
    batch = ("batch", len(roots))
    check_tensor(op, "branches.tokens", branches.tokens, [batch, ("width", None)], [torch.int64], root_tokens)
    width = ("width", branches.tokens.shape[1])
    check_tensor(op, "branches.log_probs", branches.log_probs, [batch, width], [torch.float32], root_tokens)
    check_tensor(op, "pairs.log_probs", pairs.log_probs, [batch, ("k", None)], [torch.float32], root_tokens)
    k = ("k", pairs.log_probs.shape[1])
    check_tensor(op, "pairs.branches", pairs.branches, [batch, k], [torch.int64], root_tokens)
    check_tensor(op, "pairs.tokens", pairs.tokens, [batch, k], [torch.int64], root_tokens)
    _check_places(op, branches, pairs)

    branch_log_probs = _log_probs(op, "branches.log_probs", branches.log_probs)
    pair_log_probs = _log_probs(op, "pairs.log_probs", pairs.log_probs)
    budgets = _budgets(op, budget, len(roots))
    grown = []
    for i, root_token in enumerate(roots):
        first = list(zip(branches.tokens[i].tolist(), branch_log_probs[i], strict=True))
        nodes = [(log_prob, [token]) for token, log_prob in first if token >= 0]
        for place, token, log_prob in zip(
            pairs.branches[i].tolist(), pairs.tokens[i].tolist(), pair_log_probs[i], strict=True
        ):
            if token >= 0:
                branch_token, branch_log_prob = first[place]
                nodes.append((min(log_prob, branch_log_prob), [branch_token, token]))
        nodes.sort(key=lambda node: -node[0])  # stable: a branch stays before its pairs
        tokens, parents, sources = host.merge_paths(root_token, [path for _, path in nodes], budgets[i])
        grown.append((tokens, parents, [0.0, *(nodes[source][0] for source in sources[1:])]))
    return _stack(grown, root_tokens.device, weighted=True)


def _check_places(op: str, branches: Branches, pairs: TopPairs) -> None:
    width = branches.tokens.shape[1]
    inside = (pairs.branches >= 0) & (pairs.branches < width)
    chosen = torch.nn.functional.pad(branches.tokens, (0, 1), value=-1)  # so that a width of 0 has a column
    exists = inside & (chosen.gather(1, pairs.branches.where(inside, width)) >= 0)
    wrong = (pairs.tokens >= 0) & ~exists
    if wrong.any():
        request, pair = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{op}: pairs.branches[{request}, {pair}] must be one of the {int((branches.tokens[request] >= 0).sum())} "
            f"branches of its request, got {int(pairs.branches[request, pair])}"
        )


def find_optimal_shape(
    acceptance_rates: Sequence[float], nodes: int, max_depth: int | None, max_branching: int | None
) -> TreeShape:
    op = "TokenTree.optimal_shape"
    check_range(op, "nodes", nodes, 1, _LARGEST_SHAPE)
    if max_depth is not None:
        check_range(op, "max_depth", max_depth, 0, _LARGEST_SHAPE)
    if max_branching is not None:
        check_range(op, "max_branching", max_branching, 0, _LARGEST_SHAPE)
    rates = [float(rate) for rate in acceptance_rates]
    if not all(0.0 <= rate <= 1.0 for rate in rates) or sum(rates) > 1.0 + _ROUNDING:
        raise ValueError(
            f"{op}: acceptance_rates must be probabilities whose sum is at most 1, since at most one child is "
            f"accepted, got {rates}"
        )
    choices, expected_length = host.optimal_shape(
        rates[:max_branching], nodes, nodes - 1 if max_depth is None else max_depth
    )
    return TreeShape([tuple(choice) for choice in choices], expected_length)


def _root_tokens(op: str, root_tokens: Tensor) -> list[int]:
    check_tensor(op, "root_tokens", root_tokens, [("batch", None)], [torch.int64])
    tokens: list[int] = root_tokens.tolist()
    for request, token in enumerate(tokens):
        if token < 0:
            raise ValueError(f"{op}: root_tokens[{request}] must be a token id from 0, got {token}")
    return tokens


def _budgets(op: str, budget: Budget, batch: int) -> list[int]:
    budgets = [budget] * batch if isinstance(budget, int) else list(budget)
    if len(budgets) != batch:
        raise ValueError(
            f"{op}: budget must be one number, or one for each of batch={batch} requests, got {len(budgets)}"
        )
    for number in budgets:
        check_range(op, "budget", number, 1, _LARGEST_BUDGET)
    return budgets


def _log_probs(op: str, argument: str, log_probs: Tensor) -> list[Any]:
    """Their values, none above 0: what rounding put there counts as 0."""
    wrong = ~(log_probs <= _ROUNDING)  # NaN too
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ValueError(f"{op}: {argument} must be at most 0 (nats), got {log_probs[tuple(place)]:g} at {place}")
    return log_probs.clamp(max=0.0).tolist()


def _stack(grown: Sequence[Sequence[list[Any]]], device: torch.device, *, weighted: bool = False) -> Grown:
    """The requests' tokens, parents and, where `weighted`, log-probabilities, padded to the widest tree."""
    width = max((len(columns[0]) for columns in grown), default=0)

    def stack(column: int, padding: float, dtype: torch.dtype) -> Tensor:
        rows = [columns[column] + [padding] * (width - len(columns[column])) for columns in grown]
        return torch.tensor(rows, dtype=dtype, device=device).view(len(grown), width)

    tokens, parents = stack(0, 0, torch.int64), stack(1, -2, torch.int64)
    return Grown(tokens, parents, stack(2, -math.inf, torch.float32) if weighted else None)
