"""The texts of a batch: prompts as they come in, and what has been written behind them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtp_ext.decoding.target import Target
from mtp_ext.integrations.tree_model import check_attention_mask
from mtp_ext.ops.checks import check_tensor


@dataclass
class Request:
    """One text.

    Attributes:
        index: its place in the batch.
        prompt: token ids without padding.
        new_tokens: written so far.
        finish_reason: why it has ended; None while it goes on.
    """

    index: int
    prompt: list[int]
    new_tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def last_token(self) -> int:
        return (self.new_tokens or self.prompt)[-1]

    def sequence(self) -> Tensor:
        """int64 [tokens]: prompt and new tokens."""
        return torch.tensor(self.prompt + self.new_tokens)


def check_prompts(target: Target, input_ids: Tensor, attention_mask: Tensor | None, max_new_tokens: int) -> None:
    """Raises unless each request has a token, and the model has positions for them and the new ones.

    What else may be wrong with them (ids that the model does not have, padding between tokens), `prefill` says.
    """
    check_tensor("generate", "input_ids", input_ids, [("batch", None), ("tokens", None)], [torch.int64])
    if input_ids.numel() == 0:
        raise ValueError(
            f"generate: input_ids must hold a request, and of each at least one token, got {list(input_ids.shape)}"
        )
    if attention_mask is not None:
        check_attention_mask("generate", input_ids, attention_mask)
        lengths = attention_mask.bool().sum(1)
        if (lengths == 0).any():
            raise ValueError(f"generate: every prompt must hold a token, request {int(lengths.argmin())} has none")
    longest = input_ids.shape[1] if attention_mask is None else int(lengths.max())
    if longest + max_new_tokens > target.max_positions:
        raise ValueError(
            f"generate: the prompt and max_new_tokens must fit into the model's {target.max_positions} positions, "
            f"got {longest} + {max_new_tokens}"
        )


def split_prompts(input_ids: Tensor, attention_mask: Tensor | None) -> list[Request]:
    """The requests of a batch that `check_prompts` accepts."""
    rows = input_ids.tolist()
    if attention_mask is not None:
        masks = attention_mask.tolist()
        rows = [
            [token for token, real in zip(row, mask, strict=True) if real]
            for row, mask in zip(rows, masks, strict=True)
        ]
    return [Request(index, prompt) for index, prompt in enumerate(rows)]
