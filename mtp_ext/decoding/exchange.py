"""Linear layers of any model, exchanged in place for `skinny_linear` and put back."""

import torch
from torch import Tensor, nn

from mtp_ext.decoding.linear import Linear


class ExchangedLinears:
    """Every `nn.Linear` of a model in float32 or bfloat16 runs by a packed copy of its weights; the module and its
    parameters stay where they are.

    Args:
        model: whose layers these are. Subclasses of `nn.Linear`, which may do something else, are left alone.
        storage: of packed weights, as in `pack_linear`.
    """

    def __init__(self, model: nn.Module, storage: torch.dtype | None) -> None:
        layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
        self._linears = {
            layer: Linear.pack([layer], storage, "float32")
            for layer in layers
            if layer.weight.dtype in (torch.float32, torch.bfloat16)
        }
        self.use("float32")

    def __len__(self) -> int:
        return len(self._linears)

    def use(self, arithmetic: str) -> None:
        """Runs all of them in this arithmetic."""
        for layer, linear in self._linears.items():
            vars(layer)["forward"] = _Forward(linear.with_arithmetic(arithmetic))

    def restore(self) -> None:
        """The layers run by their own weights again, and the packed ones are released."""
        for layer in self._linears:
            del vars(layer)["forward"]
        self._linears.clear()

    @property
    def linears(self) -> list[Linear]:
        return list(self._linears.values())


def is_exchanged(model: nn.Module) -> bool:
    """Whether linear layers of this model are exchanged now."""
    return any(isinstance(vars(module).get("forward"), _Forward) for module in model.modules())


class _Forward:
    """What stands in for the `forward` of one layer."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def __call__(self, input: Tensor) -> Tensor:  # named as nn.Linear's, which some models call by keyword
        return self._linear(input).to(input.dtype)
