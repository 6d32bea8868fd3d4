"""What a study compares: ways to choose the branches."""

from dataclasses import dataclass

from torch import Tensor

from mtp_ext.branches import Branches, select_branches


@dataclass(frozen=True)
class Setting:
    """Branches by their share of the probability (`top_p`) or by their number (`top_k`): one of the two."""

    top_p: float | None = None
    top_k: int | None = None

    @property
    def name(self) -> str:
        return f"top-p {self.top_p}" if self.top_p is not None else f"top-k {self.top_k}"

    def select(self, logits: Tensor) -> Branches:
        """The branches of logits [rows, vocab], most probable first: a wide setting begins with a narrow one."""
        if self.top_p is not None:
            return select_branches(logits, top_p=self.top_p)
        return select_branches(logits, top_p=1.0, top_k=self.top_k)
