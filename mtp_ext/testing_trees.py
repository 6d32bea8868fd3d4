"""Cases of `tree_attention`: what its tests and its benchmarks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.testing import EPS32, assert_within_budget
from mtp_ext.tree import TokenTree
from mtp_ext.tree_attention import tree_attention

Result = tuple[Tensor, Tensor]  # out [batch, nodes, heads, value_dim] and lse [batch, nodes, heads]


@dataclass(frozen=True)
class TreeCase:
    """What `tree_attention` takes; rows of the cache that hold nothing are NaN, and so are the queries of padding.

    Attributes:
        query: [batch, nodes, heads, head_dim].
        key, value: [batch, capacity, kv_heads, dim], or [page, page_size, kv_heads, dim].
        ancestors: int64 [batch, nodes, words], or None.
        prefix_lengths: int64 [batch].
        options: keyword arguments.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    ancestors: Tensor | None
    prefix_lengths: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        return self.query.shape[1]

    @property
    def node_counts(self) -> list[int]:
        counts = self.options.get("node_counts")
        return [self.nodes] * self.query.shape[0] if counts is None else counts.tolist()

    def run(self, device: str = "cpu") -> Result:
        """The public function's result on `device`, brought back to the CPU."""
        case = self.map(lambda tensor: tensor.to(device))
        inputs = (case.query, case.key, case.value, case.ancestors, case.prefix_lengths)
        out, lse = tree_attention(*inputs, **case.options, return_lse=True)
        return out.cpu(), lse.cpu()

    def reference(self) -> Result:
        inputs = (self.query, self.key, self.value, self.ancestors, self.prefix_lengths)
        return reference.tree_attention(*inputs, **self.options)

    def oracle(self) -> Result:
        """The result in float64."""
        return self.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor).reference()

    def map(self, change: Callable[[Tensor], Tensor]) -> "TreeCase":
        """With every tensor changed."""
        query, key, value, prefix_lengths = map(change, (self.query, self.key, self.value, self.prefix_lengths))
        ancestors = None if self.ancestors is None else change(self.ancestors)
        options = {name: change(x) if isinstance(x, Tensor) else x for name, x in self.options.items()}
        return TreeCase(query, key, value, ancestors, prefix_lengths, options)

    def changed(self, **changes: Any) -> "TreeCase":
        """With these fields or options instead."""
        fields = {name: changes.pop(name) for name in list(changes) if name in self.__dataclass_fields__}
        return replace(self, **fields, options=self.options | changes)

    def requests(self, chosen: Sequence[int]) -> "TreeCase":
        """A batch of these requests."""
        of_requests = {"node_counts", "starts", "page_table"}
        options = {name: x[chosen] if name in of_requests and x is not None else x for name, x in self.options.items()}
        paged = self.options.get("page_table") is not None
        key, value = (self.key, self.value) if paged else (self.key[chosen], self.value[chosen])
        ancestors = None if self.ancestors is None else self.ancestors[chosen]
        return TreeCase(self.query[chosen], key, value, ancestors, self.prefix_lengths[chosen], options)

    def paged(self, page_size: int, seed: int = 0) -> "TreeCase":
        """The same cache in shuffled pages, some of which belong to nobody."""
        batch, capacity = self.key.shape[:2]
        pages = -(-capacity // page_size)
        order = torch.randperm(batch * pages + 2, generator=torch.Generator().manual_seed(seed))
        page_table = order[: batch * pages].view(batch, pages)

        def scatter(cache: Tensor) -> Tensor:
            pool = cache.new_full((len(order), page_size, *cache.shape[2:]), torch.nan)
            rows = torch.nn.functional.pad(cache, (0, 0, 0, 0, 0, pages * page_size - capacity), value=torch.nan)
            pool[page_table] = rows.unflatten(1, (pages, page_size))
            return pool

        return self.changed(key=scatter(self.key), value=scatter(self.value), page_table=page_table)

    def strided(self) -> "TreeCase":
        """The same numbers with heads before nodes and rows, as a slice of something larger."""

        def restride(tensor: Tensor) -> Tensor:
            batch, rows, heads, dim = tensor.shape
            view = tensor.new_full((batch, heads + 1, rows + 2, dim + 3), torch.nan)[:, 1:, 1:-1, 2:-1].transpose(1, 2)
            return view.copy_(tensor)

        return self.changed(query=restride(self.query), key=restride(self.key), value=restride(self.value))


def tree_case(
    parents: Sequence[Sequence[int]],
    prefix_lengths: Sequence[int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    spread: float = 2.0,
    nodes: int = 0,
    seed: int = 0,
    **options: Any,
) -> TreeCase:
    """A batch of random queries, keys and values for these trees.

    Args:
        parents: of each request, -1 for the root; shorter ones are padded.
        prefix_lengths: of each request.
        heads, kv_heads, head_dim, value_dim, dtype: of the tensors.
        spread: standard deviation of the scores.
        nodes: pad the trees to so many, at least.
        seed: of the random numbers.
        options: keyword arguments of `tree_attention`.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, nodes = len(parents), max([nodes, *map(len, parents)])
    capacity = max([prefix + nodes for prefix in prefix_lengths], default=0) + 3

    def random(rows: int, heads: int, dim: int) -> Tensor:
        return torch.randn(batch, rows, heads, dim, generator=generator)

    query = random(nodes, heads, head_dim) * spread
    key, value = random(capacity, kv_heads, head_dim), random(capacity, kv_heads, value_dim or head_dim)
    for b, (prefix, tree) in enumerate(zip(prefix_lengths, parents, strict=True)):
        query[b, len(tree) :] = torch.nan
        key[b, prefix + len(tree) :] = value[b, prefix + len(tree) :] = torch.nan
    if any(len(tree) < nodes for tree in parents):
        options["node_counts"] = torch.tensor([len(tree) for tree in parents])
    lengths = torch.tensor(prefix_lengths, dtype=torch.int64)
    tensors = (query.to(dtype), key.to(dtype), value.to(dtype), ancestors_of(parents, nodes), lengths)
    return TreeCase(*tensors, options=options)


def ancestors_of(parents: Sequence[Sequence[int]], nodes: int = 0) -> Tensor:
    """int64 [batch, nodes, words]: what the nodes of these trees see, padded to `nodes`."""
    nodes = max([nodes, *map(len, parents)])
    padded = [[*tree, *[-2] * (nodes - len(tree))] for tree in parents]
    table = torch.tensor(padded, dtype=torch.int64).view(len(parents), nodes)
    # A copy in memory of torch's own, whose bounds can be checked.
    return TokenTree(torch.zeros_like(table), table, validate=False).ancestors.clone()


def random_parents(nodes: int, reach: int, seed: int = 0) -> list[int]:
    """A tree whose parents are at most `reach` nodes before their child: 1 is a chain, many is bushy."""
    random = Random(seed)
    return [-1, *(random.randint(max(0, node - reach), node - 1) for node in range(1, nodes))][:nodes]


def siblings(nodes: int) -> list[int]:
    """A root and its children."""
    return [-1, *[0] * (nodes - 1)]


def path_to(parents: Sequence[int], node: int) -> list[int]:
    """The nodes from the root to `node`."""
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    return path


def assert_attends(actual: Result, case: TreeCase, oracle: Result | None = None) -> None:
    """Fails unless a result is as near to the oracle of the case, or the given one, as the error budget asks.

    A score is rounded at the size of the terms that it is a sum of, an absolute error in nats, which exp makes a
    relative one of a weight. For bfloat16 products, weights are rounded to bfloat16.
    """
    query, key = (
        x.double().nan_to_num(0.0).norm(dim=-1).max().item() if x.numel() else 0.0 for x in (case.query, case.key)
    )
    score = max(1.0, query * key * abs(case.options.get("scale") or case.query.shape[-1] ** -0.5))
    eps = EPS32 * score
    if case.query.dtype == torch.bfloat16:
        eps += torch.finfo(torch.bfloat16).eps / 2
    (out, lse), (rounded_out, rounded_lse) = actual, case.reference()
    exact_out, exact_lse = case.oracle() if oracle is None else oracle
    assert_within_budget(out, rounded_out, exact_out, scale=0.0, eps=eps)
    assert_within_budget(lse, rounded_lse, exact_lse, scale=score)
