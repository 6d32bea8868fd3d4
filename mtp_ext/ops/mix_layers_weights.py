"""Contract of `mix_layers_weights`: the gradient of the weights of `mix_layers`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient

_OP = "mix_layers_weights"


def check_layers(op: str, layers: Sequence[Tensor], like: Tensor) -> None:
    """Raises unless these are [rows, hidden] each, of one shape and dtype, on the device of `like`."""
    if not layers:
        raise ValueError(f"{op}: layers must hold at least one layer, got none")
    checks.check_tensor(op, "layers[0]", layers[0], [("rows", None), ("hidden", None)], checks.LOGIT_DTYPES, like)
    shape = list(zip(("rows", "hidden"), layers[0].shape, strict=True))
    for i, layer in enumerate(layers[1:], 1):
        checks.check_tensor(op, f"layers[{i}]", layer, shape, [layers[0].dtype], like)


def _check(grad: Tensor, layers: Sequence[Tensor]) -> None:
    check_layers(_OP, layers, grad)
    shape = [("heads", None), *zip(("rows", "hidden"), layers[0].shape, strict=True)]
    checks.check_tensor(_OP, "grad", grad, shape, [layers[0].dtype])


def _fake(grad: Tensor, layers: Sequence[Tensor]) -> Tensor:
    return grad.new_empty(grad.shape[0], len(layers), dtype=torch.float32)


mix_layers_weights = define(
    "mix_layers_weights(Tensor grad, Tensor[] layers) -> Tensor",
    check=_check,
    reference=reference.mix_layers_weights,
    fake=_fake,
)

define_no_gradient("mix_layers_weights")
