"""How heads and model are trained together: the strategies of the paper's table 1, and `distill`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_RANK = 8  # of LoRA
_HEADS_FASTER = 4.0  # learning rate of the heads over that of the backbone, where they differ
_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("c_attn",))


@dataclass(frozen=True)
class Recipe:
    """One strategy.

    Attributes:
        joint: LoRA adapters of the backbone learn with the heads; otherwise the model stays as it is, to the bit.
        warmup: before that, one epoch of the heads alone.
        differential: heads learn at four times the backbone's rate.
        distill: heads learn the marginal p(x[t+n]) that the model itself gives, not the observed token.

    Source: arXiv 2502.09419; `distill` is ours.
    """

    joint: bool = False
    warmup: bool = False
    differential: bool = False
    distill: bool = False


RECIPES = {
    "frozen": Recipe(),
    "joint": Recipe(joint=True),
    "joint-warmup": Recipe(joint=True, warmup=True),
    "joint-differential": Recipe(joint=True, differential=True),
    "joint-warmup-differential": Recipe(joint=True, warmup=True, differential=True),
    "distill": Recipe(distill=True),
}


def add_adapters(model: "PreTrainedModel") -> Any:
    """The model with LoRA adapters of rank 8 on q, k and v of every layer, the only parameters that learn.

    Raises:
        ValueError: a model that calls its projections otherwise.
        ModuleNotFoundError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"train: joint recipes need peft, got: {error}; run: pip install peft") from error
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    names = next((names for names in _PROJECTIONS if present.issuperset(names)), None)
    if names is None:
        raise ValueError(
            "train: a joint recipe needs attention projections called q_proj, k_proj and v_proj (or query_key_value, "
            f"qkv_proj, c_attn), got {type(model).__name__}, which has none"
        )
    adapters = LoraConfig(r=_RANK, lora_alpha=_RANK, lora_dropout=0.0, target_modules=list(names), bias="none")
    return get_peft_model(model, adapters).eval()


def parameter_groups(recipe: Recipe, heads: nn.Module, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """What the optimizer is given: the heads and, in a joint recipe, the backbone's adapters, each with its peak
    learning rate as `peak`."""
    groups = [
        {"params": list(heads.parameters()), "peak": rate * (_HEADS_FASTER if recipe.differential else 1.0)},
        {"params": [parameter for parameter in model.parameters() if parameter.requires_grad], "peak": rate},
    ]
    return [group for group in groups if group["params"]]
