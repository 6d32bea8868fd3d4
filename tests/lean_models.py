"""Small random models of the families that the lean pass knows, with every weight it reads away from its initial
value, and with what their configurations can ask for: windows, biases, scaled rope, layers without rope."""

import torch
import transformers
from tiny_model import SIZES
from transformers import PreTrainedModel
from tree_models import WINDOW

_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_OPTIONS = {
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": _ROPE | {"original_max_position_embeddings": 32},
    },
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "smollm3": {"no_rope_layers": [1, 0], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gemma2": {
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 24,
    },
}


def lean_model(family: str, dtype: torch.dtype = torch.float32, **options: object) -> PreTrainedModel:
    """The same weights each time."""
    sizes = SIZES | {"head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family](**sizes | _OPTIONS[family] | options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    return model.to(dtype)
