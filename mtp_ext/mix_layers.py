"""Mixtures of the outputs of a model's layers: what heads on weighted hidden states read."""

from collections.abc import Sequence

from torch import Tensor

from mtp_ext import ops


def mix_layers(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """out[h] = sum over l of weights[h, l] layers[l], for all heads h in one reading of the layers.

    No copy of the layers is made, stacked or other, but of those whose leading dimensions are no view as rows.
    Differentiable with respect to both; the gradient of the weights reads each layer once more.

    Args:
        layers: [..., hidden] each, all of one shape and dtype: float32, bfloat16 or float16, contiguous in the last
            dimension.
        weights: float32 [heads, layers], such as `(w / temperature).softmax(-1)`.

    Returns:
        [heads, ..., hidden] in the layers' dtype; arithmetic is float32.

    Raises:
        ValueError, TypeError: no layer, or a wrong shape, dtype or device.

    Source: arXiv 2502.09419, "weighted hidden states".
    """
    rows = [layer.flatten(0, -2) if layer.dim() > 2 else layer for layer in layers]
    mixed: Tensor = ops.mix_layers(rows, weights)
    return mixed.view(weights.shape[0], *layers[0].shape)
