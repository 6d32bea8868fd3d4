"""What a training run is."""

from dataclasses import asdict, dataclass
from typing import Any

from mtp_ext.heads.training.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class Settings:
    """All that decides on a run's result, besides model and text.

    Attributes:
        recipe: one of `RECIPES`.
        horizons, kind, hidden_states, width: of `MTPHeads.from_model`.
        epochs: passes over the text, after the warm-up's.
        batch: blocks of a step, over all processes.
        block: tokens of a block at most.
        learning_rate: of the backbone; of the heads too, where the recipe has no differential rate.
        weight_decay: of AdamW.
        seed: of the heads' weights and of the order of the blocks.
        arithmetic: of matrix products, "float32" or "bfloat16"; what learns is float32 in both.
        columns: of the unembedding in a step, sampled so that nothing is biased (`ColumnSampler`); None: all of them.
        exact_epochs: the last epochs see all columns again.
        paths: for `distill`, the intermediate tokens, or paths of them, that are summed over.
        soft_targets: for `distill`, how many of the marginal's tokens a head is taught.
        draft_tokens: drafts are made of so many tokens, the most frequent of the text; None: of all, or of those of the
            heads that training starts from.
    """

    recipe: str = "frozen"
    horizons: tuple[int, ...] = (2, 3)
    kind: str = "transformer"
    hidden_states: str = "last"
    width: int | None = None
    epochs: int = 1
    batch: int = 64
    block: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    arithmetic: str = "float32"
    columns: int | None = None
    exact_epochs: int = 1
    paths: int = 8
    soft_targets: int = 16
    draft_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"train: recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if self.arithmetic not in ("float32", "bfloat16"):
            raise ValueError(f"train: arithmetic must be 'float32' or 'bfloat16', got {self.arithmetic!r}")

    @property
    def strategy(self) -> Recipe:
        return RECIPES[self.recipe]

    def identity(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
