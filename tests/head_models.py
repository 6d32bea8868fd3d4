"""Small models and heads for tests, with every weight of the heads away from where it starts."""

import torch
import transformers
from lean_models import lean_model
from tiny_model import SIZES
from transformers import PreTrainedModel

from mtp_ext.heads import MTPHeads

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gpt_neox")
KINDS = [(kind, hidden_states) for kind in ("transformer", "mlp") for hidden_states in ("last", "weighted")]


def head_model(family: str = "llama", layers: int = 3) -> PreTrainedModel:
    """The same weights each time."""
    if family != "gpt_neox":
        options = {"no_rope_layers": [1, 0, 1][:layers]} if family == "smollm3" else {}
        return lean_model(family, num_hidden_layers=layers, **options)
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(**SIZES | {"num_hidden_layers": layers}, initializer_range=0.3)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def trained_heads(model: PreTrainedModel, horizons: list[int], kind: str, hidden_states: str) -> MTPHeads:
    """Heads that say something of their own; the same each time."""
    heads = MTPHeads.from_model(model, horizons, kind=kind, hidden_states=hidden_states).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in heads.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return heads
