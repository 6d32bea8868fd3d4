"""Which intermediate tokens to sum over."""

from typing import NamedTuple

import torch
from torch import Tensor

from mtp_ext import ops


class Branches(NamedTuple):
    """The intermediate tokens of each row, most probable first.

    Attributes:
        tokens: int64 [rows, width], padded with -1.
        log_probs: float32 [rows, width], nats, normalized over the whole vocabulary, padded with -inf.
        counts: int64 [rows], how many are kept.
        dropped_mass: float32 [rows], the probability of all tokens that are not kept.

    The padding counts for nothing in `marginalize`, so this dense form can be used as it is. A row whose logits hold
    NaN or +inf, or are all -inf, is one branch with token -1 and log-probability NaN; its dropped mass is NaN.
    """

    tokens: Tensor
    log_probs: Tensor
    counts: Tensor
    dropped_mass: Tensor

    def ragged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Without padding. Reads the counts, so it waits for the device.

        Returns:
            tokens int64 [m], log_probs float32 [m], and indptr int64 [rows + 1]: row r owns branches indptr[r] to
            indptr[r + 1].
        """
        place = torch.arange(self.tokens.shape[1], device=self.counts.device)
        kept = place < self.counts[:, None]
        indptr = torch.nn.functional.pad(self.counts.cumsum(0), (1, 0))
        return self.tokens[kept], self.log_probs[kept], indptr


def select_branches(
    logits: Tensor,
    *,
    top_p: float = 0.99,
    top_k: int | None = None,
    temperature: float = 1.0,
    max_branches: int = 1024,
) -> Branches:
    """Keeps the fewest most probable tokens whose probabilities add up to `top_p`.

    The token that crosses `top_p` is kept; ties go to the lower token id. No full sort is done.

    Args:
        logits: [rows, vocab], float32, bfloat16 or float16, contiguous in the last dimension.
        top_p: in (0, 1]; 1 keeps every token of non-zero probability.
        top_k: at most this many; the width of the result is then `top_k`.
        temperature: from 1e-30 to 1e30; divides the logits.
        max_branches: the width of the result without `top_k`. A row cut short by it shows it in `dropped_mass`.

    Returns:
        `Branches`, of width `top_k` or `max_branches`.

    Raises:
        ValueError, TypeError: an argument out of its range, or of a wrong shape or dtype.

    Source: section 4 of arXiv 2502.09419 sums over the nucleus of top_p = 0.99.
    """
    results = ops.select_branches(logits, top_p, top_k, temperature, max_branches)
    return tuple.__new__(Branches, results)  # Branches(*results) takes three times as long, which a small call shows
