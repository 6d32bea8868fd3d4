"""Which nodes of a tree of drafts the target accepts, and the token that follows them.

float64 throughout, whatever the logits: what is computed here is only ever compared with something, and a sum over a
vocabulary in float32 moves thresholds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtp_ext.reference.truncate import truncated_softmax

Verdict = tuple[list[int], int]  # the path from the root, and what follows it


def verify_greedy(tokens: Tensor, parents: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """nodes [batch, nodes], lengths [batch], next_tokens [batch]."""
    best = target if target.dtype == torch.int64 else _best_tokens(target)
    verdicts = [
        _follow(ids, _children(links), chosen)
        for ids, links, chosen in zip(tokens.tolist(), parents.tolist(), best.tolist(), strict=True)
    ]
    return _accepted(verdicts, tokens)


def verify_sampling(
    tokens: Tensor,
    parents: Tensor,
    target_logits: Tensor,
    uniforms: Tensor,
    method: str,
    draft_log_probs: Tensor | None,
    draft_rows: Tensor | None,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    epsilon: float,
    delta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """nodes [batch, nodes], lengths [batch], next_tokens [batch]."""

    verdicts = []
    for b, (ids, links) in enumerate(zip(tokens.tolist(), parents.tolist(), strict=True)):
        children, logits = _children(links), target_logits[b]
        limits = [None if values is None else float(values[b]) for values in (temperature, top_k, top_p, min_p)]
        drafts = None
        if draft_log_probs is not None and draft_rows is not None:
            drafts = {node: draft_log_probs[row] for node, row in enumerate(draft_rows[b].tolist())}
        request = _Request(ids, children, uniforms[b].tolist(), logits, limits, drafts)
        if limits[0] == 0.0:
            verdicts.append(_follow(ids, children, _best_tokens(logits).tolist()))
        elif not children:
            verdicts.append(([], -1))
        elif method == "typical":
            verdicts.append(_typical(request, epsilon, delta))
        else:
            verdicts.append(_traverse(request) if method == "traversal" else _descend(request))
    return _accepted(verdicts, tokens)


@dataclass(frozen=True)
class _Request:
    """A tree, its coins, and its distributions."""

    tokens: list[int]
    children: list[list[int]]
    uniforms: list[float]
    logits: Tensor  # [nodes, vocab]
    limits: list[Any]  # temperature, top_k, top_p, min_p
    draft_log_probs: dict[int, Tensor] | None  # [vocab], by node; None: each child is a certain draft of its own

    def target(self, node: int) -> Tensor | None:
        """Probabilities [vocab] of what follows a node; None where its logits are broken."""
        return truncated_softmax(self.logits[node], *self.limits)

    def draft(self, child: int, removed: list[int]) -> Tensor:
        """Probabilities [vocab] that a child was drawn from, its refused siblings out of the way."""
        if self.draft_log_probs is None:
            return torch.zeros_like(self.logits[0]).double().index_fill(0, self._index([self.tokens[child]]), 1.0)
        q = self.draft_log_probs[child].double().exp()
        if not removed:
            return q
        q = q.index_fill(0, self._index(removed), 0.0)
        return q / q.sum() if q.sum() > 0 else q

    def _index(self, tokens: list[int]) -> Tensor:
        return torch.tensor(tokens, device=self.logits.device)


def _children(parents: Sequence[int]) -> list[list[int]]:
    """Of each node, in node order; nothing at all for a request without nodes."""
    children: list[list[int]] = [[] for parent in parents if parent != -2]
    for node in range(1, len(children)):
        children[parents[node]].append(node)
    return children


def _best_tokens(logits: Tensor) -> Tensor:
    """The argmax of each row, ties to the lower token; -1 where the row holds NaN or +inf or nothing but -inf."""
    if logits.shape[-1] == 0:
        return torch.full(logits.shape[:-1], -1, device=logits.device)
    largest = logits.amax(-1, keepdim=True)  # NaN where there is one
    return (logits == largest).int().argmax(-1).where(largest.isfinite().squeeze(-1), -1)


def _accepted(verdicts: Sequence[Verdict], tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = tokens.shape[1]
    nodes = [path + [-1] * (width - len(path)) for path, _ in verdicts]
    return (
        tokens.new_tensor(nodes).view(tokens.shape),
        tokens.new_tensor([len(path) for path, _ in verdicts]),
        tokens.new_tensor([token for _, token in verdicts]),
    )


# ---- The rules --------------------------------------------------------------------------------------------


def _follow(tokens: Sequence[int], children: Sequence[Sequence[int]], best: Sequence[int]) -> Verdict:
    """Down the children that are the target's best tokens."""
    if not children:
        return [], -1
    path = [0]
    while True:
        following = best[path[-1]]
        child = next((child for child in children[path[-1]] if tokens[child] == following >= 0), None)
        if child is None:
            return path, max(following, -1)
        path.append(child)


def _descend(request: _Request) -> Verdict:
    """Token by token from the root: a child drawn from q is accepted with probability min(1, p / q); each refusal
    leaves the residual max(p - q, 0) to its siblings."""
    path = [0]
    while True:
        p = request.target(path[-1])
        if p is None:
            return path, -1
        child, p = _first_accepted(request, path[-1], p)
        if child is None:
            return path, _sample(p, request.uniforms[-1])
        path.append(child)


def _first_accepted(request: _Request, node: int, p: Tensor) -> tuple[int | None, Tensor]:
    """The first child that is accepted, if any, and what the refusals before it left of the target."""
    removed: list[int] = []
    for child in request.children[node]:
        token, q = request.tokens[child], request.draft(child, removed)
        if q[token] == 0:
            continue  # it cannot have been drawn
        if request.uniforms[child] < p[token] / q[token]:
            return child, p
        residual = (p - q).clamp(min=0.0)
        if not q.sum().isfinite():
            return None, torch.full_like(p, math.nan)  # no distribution, as `_sample` will say
        if residual.sum() == 0:  # p = q: only rounding refused it
            return child, p
        p = residual / residual.sum()
        removed.append(token)
    return None, p


@dataclass
class _Visit:
    """A node on the path that a traversal looks at."""

    node: int
    rate: float  # at which the path down to here is accepted, by what has been refused below it
    p: Tensor | None  # what follows it then, [vocab]
    waiting: list[int]  # children, the next one last
    removed: list[int]  # tokens of the refused ones


def _traverse(request: _Request) -> Verdict:
    """From the leaves to the root: the first node of the post-order that is accepted ends the path.

    Its rate, min(1, rate of the parent * p / q), is that of its whole path. Once it is refused, `rate * p - q`, where
    positive, is what remains of its parent's rate and target.
    """
    path = [_Visit(0, 1.0, request.target(0), request.children[0][::-1], [])]
    while True:
        visit = path[-1]
        if visit.waiting:
            if visit.p is None:
                return [0], -1
            child = visit.waiting.pop()
            token, q = request.tokens[child], request.draft(child, visit.removed)
            if q[token] == 0:
                continue  # it cannot have been drawn
            rate = min(1.0, visit.rate * float(visit.p[token] / q[token]))
            if rate > 0:
                path.append(_Visit(child, rate, request.target(child), request.children[child][::-1], []))
            else:  # nor is anything below accepted
                path.append(_Visit(child, rate, None, [], []))
            continue
        if len(path) > 1 and not request.uniforms[visit.node] < visit.rate:
            parent = path[-2]
            assert parent.p is not None, "a node is only visited below a distribution"
            q = request.draft(visit.node, parent.removed)
            if not q.sum().isfinite():
                return [0], -1
            residual = (parent.rate * parent.p - q).clamp(min=0.0)
            excess = float(residual.sum())
            if excess + 1.0 - parent.rate > 0:  # at 0 only rounding refused the node
                parent.rate = excess / (excess + 1.0 - parent.rate)
                parent.removed.append(request.tokens[visit.node])
                if excess > 0:
                    parent.p = residual / excess
                else:
                    parent.waiting = []
                path.pop()
                continue
        return [visit.node for visit in path], _sample(visit.p, request.uniforms[-1])


def _typical(request: _Request, epsilon: float, delta: float) -> Verdict:
    """The longest path of tokens that are more probable than min(epsilon, delta * exp(-entropy)); of several the most
    probable, then the earliest."""
    reached: dict[int, tuple[list[int], float]] = {0: ([0], 0.0)}  # path and log-probability
    for node, children in enumerate(request.children):
        p = request.target(node) if node in reached and children else None
        if p is None:
            continue
        threshold = min(epsilon, delta * float((torch.special.xlogy(p, p)).sum().exp()))
        path, log_prob = reached[node]
        for child in children:
            probability = float(p[request.tokens[child]])
            if probability > threshold:
                reached[child] = ([*path, child], log_prob + math.log(probability))
    end = max(reached, key=lambda node: (len(reached[node][0]), reached[node][1], -node))
    return reached[end][0], _sample(request.target(end), request.uniforms[-1])


def _sample(p: Tensor | None, uniform: float) -> int:
    """The first token up to which more than `uniform` of the mass lies; -1 where there is no distribution."""
    if p is None:
        return -1
    mass = p.cumsum(-1)
    if not mass[-1] > 0:
        return -1
    above = (mass > uniform * mass[-1]) & (p > 0)
    return int(above.int().argmax())
