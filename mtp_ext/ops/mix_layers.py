"""Contract of `mix_layers`: mixtures of the outputs of a model's layers, one for each head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_gradient
from mtp_ext.ops.mix_layers_weights import check_layers, mix_layers_weights

_OP = "mix_layers"
_GROUP = 8


def _check(layers: Sequence[Tensor], weights: Tensor) -> None:
    checks.check_tensor(_OP, "weights", weights, [("heads", None), ("layers", len(layers))], [torch.float32])
    check_layers(_OP, layers, weights)


def _fake(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    return layers[0].new_empty(weights.shape[0], *layers[0].shape)


mix_layers = define(
    "mix_layers(Tensor[] layers, Tensor weights) -> Tensor",
    check=_check,
    reference=reference.mix_layers,
    fake=_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    layers, weights = inputs
    ctx.save_for_backward(weights, *layers)


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor | None], Tensor | None]:
    weights, *layers = ctx.saved_tensors
    wanted_layers, wants_weights = ctx.needs_input_grad
    grad = grad.contiguous()
    grad_layers: list[Tensor | None] = [None] * len(layers)
    if any(wanted_layers):
        # The same op with heads and layers exchanged: d layers[l] = sum over h of weights[h, l] d out[h]. A few layers
        # at a time: memory of all of them at once the allocator gets anew from the system, each time.
        groups = [mix_layers(grad.unbind(), part) for part in weights.T.contiguous().split(_GROUP)]
        grad_layers = [layer for group in groups for layer in group.unbind()]
    return grad_layers, mix_layers_weights(grad, layers) if wants_weights else None


define_gradient("mix_layers", _setup_context, _backward)
