"""The LM head that heads draft with: of all tokens, or of those alone that drafts are made of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class DraftHead:
    """Logits of some tokens, a column each.

    Attributes:
        logits: float32 [..., columns] of hidden states [..., hidden] after the final norm.
        tokens: int64 [columns], the token of each column, ascending; None: column c is of token c.
    """

    logits: Callable[[Tensor], Tensor]
    tokens: Tensor | None

    def tokens_of(self, columns: Tensor) -> Tensor:
        """int64 [...], the tokens of columns; -1, which is none, stays."""
        if self.tokens is None:
            return columns
        return self.tokens[columns.clamp(min=0)].where(columns >= 0, columns)
