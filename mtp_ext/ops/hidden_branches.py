"""Branches that are given by their hidden states, dense or ragged, as one list of those that count."""

import torch
from torch import Tensor

_INFINITY = float("inf")


class HiddenBranches:
    """The m branches whose weight is not -inf, in order.

    Attributes:
        hidden: [m, hidden].
        log_weights: float64 [m], nats; those of a row add up to one where they were to be renormalized.
        row: int64 [m], the row that a branch belongs to.
        starts: row r owns branches starts[r] to starts[r + 1]; on the host, which waits for the device.
        kept: int64 [m], their numbers among all branches, or None where all are kept.
    """

    def __init__(
        self, branch_hidden: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, renormalize: bool
    ) -> None:
        weights = branch_log_probs.flatten().double()
        device = weights.device
        if indptr is None:
            self.rows, branches = branch_log_probs.shape
            self.hidden = branch_hidden.flatten(0, 1)
            counts = torch.full((self.rows,), branches, device=device)
        else:
            self.rows = indptr.shape[0] - 1
            self.hidden = branch_hidden
            counts = indptr.diff()
        self.row = torch.arange(self.rows, device=device).repeat_interleave(counts, output_size=weights.shape[0])
        self.kept: Tensor | None = None
        live = weights != -_INFINITY
        if not live.all():  # what counts for nothing is not multiplied, and may hold NaN
            self.kept = live.nonzero().squeeze(-1)
            self.hidden, weights, self.row = (x[self.kept] for x in (self.hidden, weights, self.row))
            counts = torch.bincount(self.row, minlength=self.rows)
        self.starts: list[int] = [0, *counts.cumsum(0).tolist()]
        weights = weights.masked_fill(weights == _INFINITY, float("nan"))
        self.log_weights = weights - self.row_logsumexp(weights)[self.row] if renormalize else weights

    def __len__(self) -> int:
        return self.row.shape[0]

    def row_logsumexp(self, values: Tensor) -> Tensor:
        """[rows] of float64 values [m]: the log of the sum of their exponentials, -inf in a row without branches."""
        largest = values.new_full((self.rows,), -_INFINITY).scatter_reduce(0, self.row, values, "amax")
        shift = largest.masked_fill(largest == -_INFINITY, 0.0)
        return shift + self.row_sum((values - shift[self.row]).exp()).log()

    def row_sum(self, values: Tensor) -> Tensor:
        """[rows] of float64 values [m]."""
        return values.new_zeros(self.rows).index_add(0, self.row, values)

    def spread(self, values: Tensor, branches: int) -> Tensor:
        """Values [m, ...] of the kept as [branches, ...] of all, zeros for the others."""
        if self.kept is None:
            return values
        return values.new_zeros(branches, *values.shape[1:]).index_copy(0, self.kept, values)
