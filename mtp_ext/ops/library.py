"""The torch library `mtp_ext`, and the one way in which an op is defined in it and called."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import is_grad_enabled, is_inference_mode_enabled
from torch.compiler import is_compiling

_LIBRARY = torch.library.Library("mtp_ext", "DEF")

Operator = Callable[..., Any]


def define(
    schema: str, *, check: Callable[..., object], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Operator:
    """Defines an op: `reference` runs where no kernel is loaded, since a loaded kernel outranks this dispatch key.

    Args:
        schema: the op's schema without namespace, `name(Tensor a, ...) -> Tensor`.
        check: raises TypeError or ValueError for bad arguments; called with all of them, in order.
        reference: the result in plain PyTorch.
        fake: empty outputs of the right shape, for tracing; called with checked arguments.

    Returns:
        A callable with the op's arguments. A kernel's refusal (RuntimeError in C++) comes out as the TypeError or
        ValueError that `check` raises for it, at no cost to a call that succeeds.
    """
    name = schema.partition("(")[0]

    def checked_reference(*args: Any) -> Any:
        check(*args)
        return reference(*args)

    def checked_fake(*args: Any) -> Any:
        check(*args)
        return fake(*args)

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, checked_reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mtp_ext::{name}", checked_fake, lib=_LIBRARY)
    overload = getattr(torch.ops.mtp_ext, name).default

    def call(*args: Any) -> Any:
        try:
            if is_grad_enabled() or is_compiling() or is_inference_mode_enabled():
                return overload(*args)
            # Gradients are registered in Python, which costs as much again as the call where there are none to take.
            with torch._C._AutoDispatchBelowAutograd():
                return overload(*args)
        except (RuntimeError, TypeError):
            if not is_compiling():
                check(*args)
            raise

    return call


def define_gradient(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Registers the gradient of the op `name`."""
    torch.library.register_autograd(f"mtp_ext::{name}", backward, setup_context=setup_context, lib=_LIBRARY)


def define_no_gradient(name: str) -> None:
    """Registers a backward that says that the op `name` has none, instead of a gradient of zero."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(_no_gradient(name))

    define_gradient(name, lambda ctx, inputs, output: None, backward)


def refuse_gradient(name: str, op: Operator) -> Operator:
    """The op `name`, refusing what requires a gradient: one that works in place has no output to hang a backward on."""

    def call(*args: Any) -> Any:
        if is_grad_enabled() and any(x.requires_grad for x in _tensors(args)):
            raise RuntimeError(_no_gradient(name))
        return op(*args)

    return call


def _tensors(args: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those among the arguments, and in lists of them."""
    for x in args:
        if isinstance(x, torch.Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from _tensors(x)


def _no_gradient(name: str) -> str:
    return f"{name}: has no gradient; call it under torch.no_grad() or detach its inputs"
