"""A head that costs two small products: a residual block on what the LM head reads.

    h' = h + W_down silu(W_up h)            h [..., hidden], W_up [width, hidden], W_down [hidden, width]

W_down is zero at first, so that an untrained head predicts the next token. After Medusa's heads, arXiv 2401.10774.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class MLPHead(nn.Module):
    def __init__(self, hidden: int, width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, width, bias=False, device=device, dtype=dtype)
        self.down = nn.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.down(silu(self.up(hidden)))
        return out
