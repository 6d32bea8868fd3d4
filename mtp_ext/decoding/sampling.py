"""How tokens are chosen from the model's logits, and where the chance comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_ext.decoding.target import TargetPass
from mtp_ext.ops.checks import check_number, check_range
from mtp_ext.tree import TokenTree
from mtp_ext.verify import Accepted, verify_greedy, verify_sampling

METHODS = ("target_only", "typical")  # those for drafts that were chosen, and not sampled
_LARGEST_TEMPERATURE = 1e30


@dataclass(frozen=True)
class Sampling:
    """The settings of `generate`, checked.

    Raises:
        ValueError, TypeError: a number out of its range, an unknown method.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    method: str = "target_only"

    def __post_init__(self) -> None:
        check_number("generate", "temperature", self.temperature)
        is_temperature = self.temperature == 0 or 1 / _LARGEST_TEMPERATURE <= self.temperature <= _LARGEST_TEMPERATURE
        if not is_temperature:
            raise ValueError(f"generate: temperature must be 0, or from 1e-30 to 1e30, got {self.temperature}")
        if self.top_k is not None:
            check_range("generate", "top_k", self.top_k, 1, 2**31 - 1)
        for name, share, interval in (("top_p", self.top_p, "(0, 1]"), ("min_p", self.min_p, "[0, 1]")):
            if share is not None:
                check_number("generate", name, share)
                if not (0.0 < share <= 1.0 or (name == "min_p" and share == 0.0)):
                    raise ValueError(f"generate: {name} must be in {interval}, got {share}")
        if self.method not in METHODS:
            raise ValueError(f"generate: method must be {' or '.join(map(repr, METHODS))}, got {self.method!r}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def evidence(self, tree_pass: TargetPass) -> Tensor:
        """What `verify` reads of a pass: the best tokens where greedy, else the logits."""
        return tree_pass.best_tokens() if self.greedy else tree_pass.logits()

    def verify(self, tree: TokenTree, evidence: Tensor, uniforms: Tensor | None) -> Accepted:
        """What the target accepts of the tree; `uniforms` float32 [batch, nodes + 1], None where greedy."""
        if uniforms is None:
            return verify_greedy(tree, evidence)
        return verify_sampling(
            tree,
            evidence,
            uniforms,
            method=self.method,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
        )


class Chance:
    """Uniform numbers, a stream for each request, as many a pass whatever the size of the tree: what a request gets
    does not depend on the others.

    Args:
        seed: None takes one from torch's own generator, so that `torch.manual_seed` decides.
        batch: requests.
        nodes: of the largest tree.
    """

    def __init__(self, seed: int | None, batch: int, nodes: int) -> None:
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        self._nodes = nodes
        # Far apart: neighbouring seeds must not share streams.
        first = seed * 0x9E3779B97F4A7C15
        self._streams = [torch.Generator().manual_seed((first + request) % 2**63) for request in range(batch)]

    def draw(self, requests: Sequence[int], nodes: int, device: torch.device) -> Tensor:
        """float32 [requests, nodes + 1] in [0, 1): one a node, and the last for the next token."""
        rows = torch.stack([torch.rand(self._nodes + 1, generator=self._streams[request]) for request in requests])
        return torch.cat([rows[:, :nodes], rows[:, -1:]], 1).to(device)
