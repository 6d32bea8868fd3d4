"""Weighted hidden states: mixtures of the outputs of a model's layers.

    out[h] = sum over l of weights[h, l] layers[l]

Source: arXiv 2502.09419, "weighted hidden states".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext.reference.numbers import compute


def mix_layers(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """[heads, rows, hidden] in the layers' dtype, from layers [rows, hidden] each and weights [heads, layers]."""
    terms = (share[:, None, None] * compute(layer) for share, layer in zip(weights.unbind(1), layers, strict=True))
    first = next(terms)
    return sum(terms, first).to(layers[0].dtype)


def mix_layers_weights(grad: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The gradient of the weights, [heads, layers], from that of the mixtures, [heads, rows, hidden]."""
    return torch.stack([(compute(grad) * compute(layer)).sum((1, 2)) for layer in layers], 1)
