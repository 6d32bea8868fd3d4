"""A vocabulary in slices, one a process of a group: what the processes tell each other.

What is gathered is combined in the order of the ranks, so that every rank computes the same bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

_c10d: Any = distributed.distributed_c10d if distributed.is_available() else None


class VocabShards:
    """The slices, in the order of the ranks.

    Attributes:
        sizes: tokens in each.
        rank: this process's place among them.
        vocab: tokens in all.
        offset: the global id of this slice's first token.
    """

    def __init__(self, sizes: list[int], rank: int = 0, group: "distributed.ProcessGroup | None" = None) -> None:
        self.sizes, self.rank, self._group = sizes, rank, group
        self.vocab = sum(sizes)
        self.offset = sum(sizes[:rank])

    def gather(self, tensor: Tensor) -> Tensor:
        """[ranks, ...]: the tensor [...] of every rank."""
        if self._group is None:
            return tensor[None]
        return _gather(tensor, self._group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks."""
        return tensor if self._group is None else self.gather(tensor).sum(0)

    def agree(self, op: str, facts: Mapping[str, float], device: torch.device) -> None:
        """Raises ValueError, on all ranks, unless the facts are the same on every one."""
        told = self.gather(torch.tensor(list(facts.values()), dtype=torch.float64, device=device)).tolist()
        for rank, theirs in enumerate(told):
            for name, first, value in zip(facts, told[0], theirs, strict=True):
                if value != first:
                    raise ValueError(
                        f"{op}: {name} must be the same on every rank of the group, "
                        f"got {first:g} on rank 0 and {value:g} on rank {rank}"
                    )

    def owner(self, tokens: Tensor) -> Tensor:
        """The rank that has each of these tokens."""
        ends = torch.tensor(self.sizes, device=tokens.device).cumsum(0)
        return torch.bucketize(tokens, ends, right=True)


def open_shards(op: str, group_name: str, device: torch.device, vocab: int, refusal: Exception | None) -> VocabShards:
    """Exchanges the sizes of the slices.

    Args:
        op: in whose name to refuse.
        group_name: of the process group.
        device: what the group communicates on.
        vocab: tokens in this rank's slice.
        refusal: what this rank has to object to its arguments; the others learn of it instead of waiting.

    Raises:
        ValueError: another rank has refused its arguments.
    """
    group: distributed.ProcessGroup = _c10d._resolve_process_group(group_name)
    told = _gather(torch.tensor([refusal is not None, vocab], device=device), group).tolist()
    if refusal is not None:
        raise refusal
    for rank, (refused, _) in enumerate(told):
        if refused:
            raise ValueError(f"{op}: rank {rank} of the group has refused its arguments")
    return VocabShards([size for _, size in told], distributed.get_rank(group), group)


def _gather(tensor: Tensor, group: "distributed.ProcessGroup") -> Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, tensor, group=group)
    return torch.stack(parts)
