"""The gradient that the marginalization ops share.

With out[v] = log sum_b exp(w[b]) p_b(v) and r_b(v) = exp(w[b]) p_b(v) / exp(out[v]), the responsibility of branch b
for token v, a gradient g[v] flows into branch b as flow[b, v] = g[v] r_b(v), and
    d logits[b] = flow[b] - p_b * sum_v flow[b, v]            d w[b] = sum_v flow[b, v]
Renormalized weights subtract from d w[b] their share, exp(w[b]), of the row's total.
"""

import torch
from torch import Tensor


class FlatBranches:
    """Dense or ragged branches as one list of m, each knowing its row."""

    def __init__(
        self, branch_logits: Tensor, branch_log_probs: Tensor, indptr: Tensor | None, renormalize: bool
    ) -> None:
        self.shape, self.dtype = branch_logits.shape, branch_logits.dtype
        self.weight_shape, self.renormalize = branch_log_probs.shape, renormalize
        vocab = self.shape[-1]
        weights = branch_log_probs.flatten()
        device = weights.device
        m = weights.shape[0]
        if indptr is None:
            self.rows = self.shape[0]
            counts = torch.full((self.rows,), m // max(self.rows, 1), device=device)
        else:
            self.rows = indptr.shape[0] - 1
            counts = indptr.diff()
        self.row = torch.arange(self.rows, device=device).repeat_interleave(counts, output_size=m)
        self.dead = weights == float("-inf")
        if renormalize:
            largest = weights.new_full((self.rows,), float("-inf")).scatter_reduce(0, self.row, weights, "amax")
            largest = largest.masked_fill(largest == float("-inf"), 0.0)
            weights = weights - largest[self.row]  # in two steps: weights far from 0 would round their total away
            total = weights.new_zeros(self.rows).index_add(0, self.row, weights.exp())
            weights = weights - total.log()[self.row]
        self.weights = weights.masked_fill(self.dead, float("-inf"))  # [m], normalized where asked for
        logits = branch_logits.reshape(m, vocab).float().masked_fill(self.dead[:, None], 0.0)
        self.log_probs = logits.log_softmax(-1)  # [m, vocab]

    def per_branch(self, per_row: Tensor) -> Tensor:
        """[rows, ...] -> [m, ...]"""
        return per_row[self.row]

    def responsibilities(self, log_probs: Tensor, output: Tensor) -> Tensor:
        """exp(w + log_probs - output) for log_probs [m, ...] and output [rows, ...]; 0 where the output is -inf."""
        weights = self.weights.reshape(-1, *[1] * (log_probs.dim() - 1))
        output = self.per_branch(output)
        nothing = output == float("-inf")
        return (weights + log_probs - output.masked_fill(nothing, 0.0)).exp().masked_fill(nothing, 0.0)

    def gradients(self, flow: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of logits and weights from flow [m, vocab] and its sum over the vocabulary [m]."""
        grad_logits = (flow - self.log_probs.exp() * total[:, None]).masked_fill(self.dead[:, None], 0.0)
        grad_weights = total
        if self.renormalize:
            row_total = total.new_zeros(self.rows).index_add(0, self.row, total)
            grad_weights = total - self.weights.exp() * self.per_branch(row_total)
        grad_weights = grad_weights.masked_fill(self.dead, 0.0)
        return grad_logits.reshape(self.shape).to(self.dtype), grad_weights.reshape(self.weight_shape)
