"""Our kernel beside plain PyTorch on the logits of a real model."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_ext.marginalize import marginalize

_REPEATS = 3


@dataclass(frozen=True)
class Timing:
    """Median seconds of summing out the branches of one position, and how far the results differ (nats)."""

    branches: int
    vocab: int
    mtp_ext: float
    plain_pytorch: float
    largest_difference: float


def plain_marginalize(branch_logits: Tensor, branch_log_probs: Tensor) -> Tensor:
    """The mixture as one would write it in PyTorch."""
    weights = branch_log_probs.log_softmax(-1)
    return (weights[..., None] + branch_logits.float().log_softmax(-1)).logsumexp(-2)


@torch.no_grad()
def time_marginalize(branch_logits: Tensor, branch_log_probs: Tensor) -> Timing:
    """Times both, one after the other and over again, so that what else the machine does hits both alike.

    Args:
        branch_logits: [rows, branches, vocab], on a CPU.
        branch_log_probs: float32 [rows, branches].
    """
    ours, plain = [], []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        our_result = marginalize(branch_logits, branch_log_probs)
        middle = time.perf_counter()
        plain_result = plain_marginalize(branch_logits, branch_log_probs)
        ours.append(middle - start)
        plain.append(time.perf_counter() - middle)
    return Timing(
        branches=branch_logits.shape[1],
        vocab=branch_logits.shape[2],
        mtp_ext=statistics.median(ours),
        plain_pytorch=statistics.median(plain),
        largest_difference=float((our_result - plain_result).abs().max()),
    )
