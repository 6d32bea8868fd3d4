"""The paper's head: a decoder layer of its own on what the layer before the last one gives."""

from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn

from mtp_ext.heads.backbone import Backbone


def copy_final_layer(backbone: Backbone, index: int, *, initialise: bool) -> nn.Module:
    """A trainable copy of the model's final decoder layer, which counts as layer `index` of a cache.

    Args:
        initialise: draws its weights as the model's own initialiser does, from torch's generator.
    """
    layer = deepcopy(backbone.layers[-1])
    config = _own_config(backbone.config)
    module: Any
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = index
        if hasattr(module, "config"):
            module.config = config
    for parameter in layer.parameters():
        parameter.requires_grad_(True)
        # transformers' mark of weights that its initialiser must leave alone.
        parameter.__dict__.pop("_is_hf_initialized", None)
    if initialise:
        with torch.no_grad():
            layer.apply(backbone.model._init_weights)
    return layer.train()


def _own_config(config: Any) -> Any:
    """The model's, so that a change of its attention, as decoding makes it, is none of the heads'."""
    own = copy(config)
    if own._attn_implementation == "mtp_tree":
        own._attn_implementation = "sdpa"
    return own
