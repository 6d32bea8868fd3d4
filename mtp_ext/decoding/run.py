"""The state of one generation, pass by pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

from mtp_ext.decoding.budget import AdaptiveBudget, Budget, FixedBudget, Outcome
from mtp_ext.decoding.costs import MOST_NODES, measured_costs
from mtp_ext.decoding.drafters import Drafter, DraftSession, check_draft, is_reading, roots_alone
from mtp_ext.decoding.requests import Request
from mtp_ext.decoding.sampling import Chance, Sampling
from mtp_ext.decoding.statistics import Statistics
from mtp_ext.decoding.stopping import Stopping
from mtp_ext.decoding.target import Target, readable
from mtp_ext.kv_cache import KVCache, commit_
from mtp_ext.tree import TokenTree
from mtp_ext.verify import Accepted


class Streamer(Protocol):
    """What transformers calls a streamer, such as its `TextStreamer`."""

    def put(self, value: Tensor) -> None:
        """First the prompt, int64 [1, tokens]; then of each pass the tokens that it wrote, int64 [tokens]."""

    def end(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What `generate` is told, checked."""

    sampling: Sampling
    stopping: Stopping
    max_new_tokens: int
    budget: int | None
    seed: int | None
    streamer: Streamer | None


class Run:
    """Decodes a batch: `prefill`, then `step` while requests are active.

    Attributes:
        requests: all of them; `active` those that go on: each has a row of the cache, in this order.
        statistics: of what has happened so far.
    """

    _cache: KVCache

    def __init__(self, target: Target, requests: list[Request], drafter: Drafter | None, settings: Settings) -> None:
        self.requests, self.active = requests, list(requests)
        self.statistics = Statistics()
        self._target, self._settings = target, settings
        self._budget: Budget = FixedBudget(1 if drafter is None else settings.budget or MOST_NODES)
        self._is_adaptive = drafter is not None and settings.budget is None
        self._drafter = drafter if self._budget.most_nodes > 1 else None
        self._session: DraftSession | None = None
        self._chance = None
        if not settings.sampling.greedy:
            self._chance = Chance(settings.seed, len(requests), self._budget.most_nodes)

    def prefill(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Runs the prompts and writes the first token of each."""
        settings, seconds = self._settings, self.statistics.seconds
        begin = perf_counter()
        if settings.streamer is not None:
            settings.streamer.put(input_ids.cpu())
        if self._drafter is not None:
            prompts = [request.prompt for request in self.requests]
            self._session = self._drafter.start(self._target, prompts, settings.max_new_tokens)
            if is_reading(self._session):
                self._target = readable("generate", self._target).keeping(self._session.layers)
        capacity = input_ids.shape[1] + settings.max_new_tokens + self._budget.most_nodes
        self._cache = self._target.new_cache(len(self.requests), capacity)
        prompt_pass = self._target.prefill(input_ids, self._cache, attention_mask)
        if is_reading(self._session):
            real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            self._session.read(prompt_pass.layer_outputs, [row.nonzero()[:, 0].tolist() for row in real])
        roots = self._roots()
        evidence = settings.sampling.evidence(prompt_pass)
        self._write(self._written(roots, settings.sampling.verify(roots, evidence, self._uniforms(1))))
        self.statistics.first_tokens = self.statistics.tokens
        seconds.prefill = perf_counter() - begin
        if self._is_adaptive and self.active:
            begin = perf_counter()
            costs = measured_costs(self._target, len(self.active), settings.sampling.greedy, self._rehearse)
            self._budget = AdaptiveBudget(costs, settings.max_new_tokens)
            seconds.measuring = perf_counter() - begin

    def step(self) -> None:
        """One pass for all active requests."""
        sampling, seconds = self._settings.sampling, self.statistics.seconds
        begin = perf_counter()
        draft, tree = self._draft()
        drafted = perf_counter()
        tree_pass = self._target.run_tree(tree, self._cache)
        evidence = sampling.evidence(tree_pass)
        ran = perf_counter()
        accepted = sampling.verify(tree, evidence, self._uniforms(tree.tokens.shape[1]))
        self._cache.lengths = commit_(self._cache.keys, self._cache.values, self._cache.lengths, accepted)
        written = self._written(tree, accepted)
        verified = perf_counter()
        if is_reading(self._session):
            paths = zip(accepted.nodes.tolist(), accepted.lengths.tolist(), strict=True)
            self._session.read(tree_pass.layer_outputs, [nodes[:length] for nodes, length in paths])
        read = perf_counter()
        self._count(tree)
        self._budget.learn(Outcome(draft, written, tree.tokens.shape[1], drafted - begin, read - drafted))
        self._write(written)
        seconds.drafting += drafted - begin + read - verified
        seconds.forward += ran - drafted
        seconds.verification += verified - ran
        seconds.loop += perf_counter() - read

    def finished_statistics(self) -> Statistics:
        """With what the budget has to say."""
        self.statistics.cost_curve = self._budget.cost_curve()
        self.statistics.explanation = self._budget.explain(self.statistics.budgets)
        return self.statistics

    def _draft(self) -> tuple[TokenTree | None, TokenTree]:
        """All that the drafter proposes, None where it was not asked, and the tree to run."""
        most = self._budget.most_nodes
        depths = [self._settings.max_new_tokens - len(request.new_tokens) - 1 for request in self.active]
        if self._session is None or max(depths) == 0 or not self._budget.wants_draft():
            return None, self._roots()
        draft = self._session.propose(most, depths)
        check_draft(draft, [request.last_token for request in self.active], most, self._target.vocab)
        nodes = self._budget.choose(draft)
        if nodes == 1:
            return draft, self._roots()
        if nodes >= draft.tokens.shape[1]:
            return draft, draft
        return draft, TokenTree(draft.tokens[:, :nodes], draft.parents[:, :nodes], validate=False)

    def _roots(self) -> TokenTree:
        return roots_alone([request.last_token for request in self.active], self._target.device)

    def _uniforms(self, nodes: int) -> Tensor | None:
        if self._chance is None:
            return None
        return self._chance.draw([request.index for request in self.active], nodes, self._target.device)

    def _written(self, tree: TokenTree, accepted: Accepted) -> list[list[int]]:
        """Of each request what the target said in this pass; ends in -1 where it said nothing that has a meaning."""
        rows = zip(
            tree.tokens.tolist(),
            accepted.nodes.tolist(),
            accepted.lengths.tolist(),
            accepted.next_tokens.tolist(),
            strict=True,
        )
        return [[*(tokens[node] for node in path[1:length]), last] for tokens, path, length, last in rows]

    def _count(self, tree: TokenTree) -> None:
        statistics = self.statistics
        statistics.passes += 1
        statistics.request_passes += len(self.active)
        statistics.budgets[tree.tokens.shape[1]] += 1
        if tree.tokens.shape[1] > 1:
            statistics.drafted += int(tree.node_counts.sum()) - len(self.active)

    def _write(self, written: Sequence[Sequence[int]]) -> None:
        """Adds these tokens to the texts as far as they go on, and lets go of those that have ended."""
        statistics, streamer = self.statistics, self._settings.streamer
        broken = [request.index for request, tokens in zip(self.active, written, strict=True) if tokens[-1] < 0]
        kept_tokens = []
        for request, tokens in zip(self.active, written, strict=True):
            said = [token for token in tokens if token >= 0]
            kept, request.finish_reason = self._settings.stopping.cut(request.new_tokens, said)
            request.new_tokens += kept
            kept_tokens.append(kept)
            statistics.tokens += len(kept)
            statistics.accepted += min(len(kept), len(tokens) - 1)
            if streamer is not None and kept:
                streamer.put(torch.tensor(kept))
        if broken:
            raise ValueError(f"generate: the model's logits must be numbers, got NaN or +inf for request {broken[0]}")
        if self._session is not None:
            self._session.observe(kept_tokens)
        going_on = [row for row, request in enumerate(self.active) if request.finish_reason is None]
        if going_on and len(going_on) < len(self.active):
            self._keep(going_on)
        elif not going_on:
            self.active = []

    def _keep(self, rows: list[int]) -> None:
        self._budget.shrink(len(rows) / len(self.active))
        self.active = [self.active[row] for row in rows]
        self._cache = self._cache.select(torch.tensor(rows, device=self._target.device))
        if self._session is not None:
            self._session.select(rows)

    def _rehearse(self, nodes: int) -> None:
        """A pass with so many nodes, of which nothing is kept, until its result is there."""
        sampling = self._settings.sampling
        tokens = self._roots().tokens.expand(-1, nodes).contiguous()
        parents = torch.zeros_like(tokens)
        parents[:, 0] = -1
        tree = TokenTree(tokens, parents, validate=False)
        uniforms = None if sampling.greedy else torch.zeros(len(tokens), nodes + 1, device=tokens.device)
        evidence = sampling.evidence(self._target.run_tree(tree, self._cache))
        sampling.verify(tree, evidence, uniforms).next_tokens.tolist()
