"""Several processes that train as one, by accelerate."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Processes:
    """The processes of this run: one, or those that `accelerate launch` or `torchrun` have started.

    Each computes the gradients of its share of a batch. These are added up, not averaged: losses are divided by the
    number of targets in the whole batch, so that several processes do what one would do.

    Attributes:
        rank, count: which process this is, and how many there are.
    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator = Accelerator(cpu=device.type == "cpu")
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, places: list[int]) -> list[int]:
        """This process's part of a batch; of a small one it may be nothing."""
        return places[self.rank :: self.count]

    def sum(self, numbers: Tensor) -> Tensor:
        """Over the processes; the same bits in each."""
        if self.count == 1:
            return numbers
        total: Tensor = self._accelerator.reduce(numbers, "sum")
        return total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Over the processes, in place; a parameter without a gradient counts as zero."""
        if self.count == 1:
            return
        wanted = list(parameters)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in wanted]
        total = self.sum(torch.cat([grad.float().flatten() for grad in grads]))
        for parameter, grad in zip(wanted, total.split([grad.numel() for grad in grads]), strict=True):
            parameter.grad = grad.view_as(parameter).to(parameter.dtype)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()
