"""Small random models of the families that tree attention is checked on, and the same models as oracles."""

from copy import deepcopy

import torch
import transformers
from tiny_model import SIZES
from transformers import PreTrainedModel

FAMILIES = ("llama", "qwen2", "gemma2", "gpt_oss")
WINDOW = 6  # of every second layer of the last two


def tree_model(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same weights each time, with heads of a size that the op takes."""
    sizes = SIZES | {"head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3}
    if family == "gemma2":
        sizes |= {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}
    if family == "gpt_oss":
        sizes |= {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": ROPE}
    config = transformers.CONFIG_MAPPING[family](**sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model.to(dtype)


ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def oracle_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64, with eager attention."""
    oracle = deepcopy(model).double()
    oracle.set_attn_implementation("eager")
    if model.config.model_type == "gpt_oss":
        oracle.set_experts_implementation("eager")  # the other one has no float64
    return oracle
