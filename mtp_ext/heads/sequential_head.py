"""A head that also reads the token before the one it predicts, known by the time it drafts.

    h' = h + W_down silu(W_up [h; e(y)])    h, h' [..., hidden], y [...], W_up [width, 2 hidden], W_down [hidden, width]

h is what the LM head reads or, behind another such head, that head's h'; e(y) the unembedding's row of token y, scaled
to a root mean square of one. W_down is zero at first. After Hydra's sequentially dependent heads, arXiv 2402.05109.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu


class SequentialHead(nn.Module):
    def __init__(self, hidden: int, width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = nn.Linear(2 * hidden, width, bias=False, device=device, dtype=dtype)
        self.down = nn.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """[..., hidden] of the next place, from that of this place and the unembedding's row of the token after it."""
        token = rms_norm(embedded.to(hidden.dtype), embedded.shape[-1:])
        out: Tensor = hidden + self.down(silu(self.up(torch.cat([hidden, token], -1))))
        return out
