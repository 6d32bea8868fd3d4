"""Cases of `verify_sampling`: what its tests and its benchmarks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import verify_checks
from mtp_ext.testing import peaked_logits
from mtp_ext.tree import TokenTree
from mtp_ext.verify import Accepted, verify_sampling

SAMPLED = ("without_replacement", "traversal")  # methods whose drafts are drawn
METHODS = ("target_only", *SAMPLED, "typical")


@dataclass(frozen=True)
class VerifyCase:
    """What `verify_sampling` takes, but for the method and its settings.

    Attributes:
        tokens, parents: int64 [batch, nodes].
        logits: [batch, nodes, vocab]; those of padding are NaN.
        uniforms: float32 [batch, nodes + 1].
        draft_log_probs: float32 [batch * nodes, vocab]; the children of node i of request b are drawn from row
            b * nodes + i.
        draft_rows: int64 [batch, nodes].
    """

    tokens: Tensor
    parents: Tensor
    logits: Tensor
    uniforms: Tensor
    draft_log_probs: Tensor
    draft_rows: Tensor

    def run(self, method: str, device: str = "cpu", **settings: Any) -> Accepted:
        """The public function's result on `device`, brought back to the CPU."""
        case = self.map(lambda tensor: tensor.to(device))
        settings = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in settings.items()}
        tree = TokenTree(case.tokens, case.parents, validate=False)
        result = verify_sampling(tree, case.logits, case.uniforms, method=method, **case.drafts(method), **settings)
        return Accepted(*[part.cpu() for part in result])

    def reference(self, method: str, **settings: Any) -> Accepted:
        """The reference's result; settings are numbers."""
        batch, device = len(self.tokens), self.tokens.device

        def of_requests(name: str, default: float | None = None) -> Any:
            return verify_checks.of_requests("reference", name, settings.get(name, default), batch, device)

        drafts = self.drafts(method)
        result = reference.verify_sampling(
            self.tokens,
            self.parents,
            self.logits,
            self.uniforms,
            method,
            drafts.get("draft_log_probs"),
            drafts.get("draft_rows"),
            of_requests("temperature", 1.0),
            of_requests("top_k"),
            of_requests("top_p"),
            of_requests("min_p"),
            settings.get("epsilon", 0.09),
            settings.get("delta", 0.3),
        )
        return Accepted(*result)

    def drafts(self, method: str) -> dict[str, Any]:
        """The drafts' distributions as keyword arguments, where the method takes them."""
        if method not in SAMPLED:
            return {}
        return {"draft_log_probs": self.draft_log_probs, "draft_rows": self.draft_rows}

    def map(self, change: Callable[[Tensor], Tensor]) -> "VerifyCase":
        """With every tensor changed."""
        return VerifyCase(**{name: change(getattr(self, name)) for name in self.__dataclass_fields__})

    def changed(self, **fields: Tensor) -> "VerifyCase":
        """With these fields instead."""
        return replace(self, **fields)

    def requests(self, chosen: Sequence[int]) -> "VerifyCase":
        """A batch of these requests."""
        indices = list(chosen)
        per_request = {name: getattr(self, name)[indices] for name in self.__dataclass_fields__ if "log_" not in name}
        return replace(self, **per_request)

    def strided(self) -> "VerifyCase":
        """The same numbers as slices of something larger, with nodes before requests."""

        def restride(tensor: Tensor) -> Tensor:
            rows, *others = tensor.shape
            shape = [*others[:-1], rows + 1, others[-1] + 3]
            view = torch.zeros(shape, dtype=tensor.dtype)[..., 1:, 2:-1].movedim(-2, 0)
            return view.copy_(tensor)

        return self.map(restride)


def verify_case(
    parents: Sequence[Sequence[int]],
    vocab: int,
    *,
    likeness: float = 0.7,
    dtype: torch.dtype = torch.float32,
    nodes: int = 0,
    seed: int = 0,
) -> VerifyCase:
    """Trees of these shapes whose siblings are drawn without replacement from a drafter that resembles the target.

    Args:
        parents: of each request, -1 for the root; shorter ones are padded.
        vocab: tokens.
        likeness: the share of the target's logits in the drafter's; the rest is of another model.
        dtype: of the logits.
        nodes: pad the trees to so many, at least.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, nodes = len(parents), max([nodes, *map(len, parents)])
    logits = peaked_logits(batch, nodes, vocab, seed=seed, dtype=dtype)
    other = peaked_logits(batch, nodes, vocab, seed=seed + 1)
    draft_log_probs = (likeness * logits.float() + (1.0 - likeness) * other).log_softmax(-1)
    table = torch.tensor([[*tree, *[-2] * (nodes - len(tree))] for tree in parents], dtype=torch.int64)
    table = table.view(batch, nodes)
    tokens, draft_rows = torch.zeros(batch, nodes, dtype=torch.int64), torch.full((batch, nodes), -1)
    for b, tree in enumerate(parents):
        logits[b, len(tree) :] = torch.nan
        for parent in range(len(tree)):
            children = [node for node, link in enumerate(tree) if link == parent]
            if children:  # the order of log q plus Gumbel noise is that of drawing without replacement
                noise = -torch.empty(vocab).exponential_(generator=generator).log()
                tokens[b, children] = (draft_log_probs[b, parent] + noise).topk(len(children)).indices
                draft_rows[b, children] = b * nodes + parent
    uniforms = torch.rand(batch, nodes + 1, generator=generator)
    return VerifyCase(tokens, table, logits, uniforms, draft_log_probs.reshape(batch * nodes, vocab), draft_rows)
