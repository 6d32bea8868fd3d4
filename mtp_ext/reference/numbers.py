"""What the references share: the dtype to compute in, and an order that breaks ties by index."""

import torch
from torch import Tensor


def compute(x: Tensor) -> Tensor:
    """`x` in the dtype that the references compute in: float64 stays, anything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def top_descending(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest along the last dimension with their indices, ties to the lower index, NaN first.

    Entries of log-probability -inf, NaN, or beyond the end have index -1; those beyond the end are -inf.
    """
    values, indices = values.sort(dim=-1, descending=True, stable=True)
    short = max(0, k - values.shape[-1])
    values = torch.nn.functional.pad(values[..., :k], (0, short), value=float("-inf"))
    indices = torch.nn.functional.pad(indices[..., :k], (0, short), value=-1)
    return values, indices.where(values > float("-inf"), -1)
