"""The rows of the paper's table 1, and two more: the model as it is, and heads that are taught by it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strategy:
    """One way to predict the next and the second token.

    Attributes:
        title: as it stands in a table.
        recipe: of `mtp_ext.heads.training`; None where the second token is predicted by marginalization.
        hidden_states: what the heads read.
        tuned: whether the model is tuned by LoRA for the next token first.
        paper: whether the paper's table has it.
    """

    title: str
    recipe: str | None = None
    hidden_states: str = "last"
    tuned: bool = False
    paper: bool = True


STRATEGIES = {
    "base": Strategy("model as it is + marginalization", paper=False),
    "tuned": Strategy("LoRA-tuned base + marginalization", tuned=True),
    "frozen": Strategy("heads only, backbone frozen", "frozen"),
    "joint": Strategy("joint", "joint"),
    "warmup": Strategy("joint, head warm-up", "joint-warmup"),
    "differential": Strategy("joint, differential learning rate", "joint-differential"),
    "both": Strategy("warm-up + differential", "joint-warmup-differential"),
    "weighted": Strategy("differential + weighted hidden states", "joint-differential", "weighted"),
    "distill": Strategy("heads only, taught by marginals", "distill", paper=False),
}
BASELINE = "tuned"  # what the others are compared with
