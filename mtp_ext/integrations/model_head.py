"""The end of a Hugging Face model, as one of its own passes shows it: the final norm, the unembedding and the softcap.

Nothing is taken for granted from a name: each part is what it is bit for bit in the pass that was watched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel


class ModelHead(NamedTuple):
    """softcap * tanh((norm(states) @ unembedding.T + bias) / softcap) is a model's logits, states those of its last
    layer.

    Attributes:
        norm: the module whose output is the last hidden state.
        unembedding: [vocab, hidden].
        bias: [vocab], or None.
        softcap: None for none.
    """

    norm: nn.Module
    unembedding: Tensor
    bias: Tensor | None
    softcap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocab] of hidden states [..., hidden] behind the norm."""
        logits = linear(hidden, self.unembedding, self.bias)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class HeadWatch:
    """What a pass did at its end."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._linear: nn.Module | None = model.get_output_embeddings()
        self._last: Tensor | None = None
        self._read: Tensor | None = None
        self._products: Tensor | None = None
        self._norm: tuple[nn.Module, Any] | None = None  # the last module that ran, and its output

    def head(self, logits: Tensor) -> ModelHead | None:
        """The head that gave these logits in the pass; None where it is something else than a `ModelHead`.

        Args:
            logits: [batch, tokens, vocab], the output of the pass, or those of its last tokens.
        """
        last, read, products, linear = self._last, self._read, self._products, self._linear
        if last is None or read is None or products is None or type(linear) is not nn.Linear:
            return None
        if self._norm is None or self._norm[1] is not last:
            return None
        if not torch.equal(read, last[:, last.shape[1] - read.shape[1] :]):
            return None
        softcap = getattr(self._model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
        if softcap is not None:
            products = torch.tanh(products / softcap) * softcap
        if not torch.equal(products.to(logits.dtype), logits):
            return None
        return ModelHead(self._norm[0], linear.weight, linear.bias, softcap)

    @property
    def last_hidden(self) -> Tensor:
        """[batch, tokens, hidden], behind the final norm; after a pass."""
        assert self._last is not None
        return self._last

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        base = self._model.base_model
        for module in _outside_layers(base):
            yield module, self._see_output
        yield base, self._see_base
        if self._linear is not None:
            yield self._linear, self._see_linear

    def _see_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._norm = module, output

    def _see_base(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._last = getattr(output, "last_hidden_state", None)

    def _see_linear(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._read, self._products = inputs[0], output


@contextmanager
def watch_head(model: PreTrainedModel) -> Iterator[HeadWatch]:
    """Watches the end of the pass that runs meanwhile."""
    watch = HeadWatch(model)
    handles = [module.register_forward_hook(hook) for module, hook in watch.hooks()]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _outside_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below this one, but those in lists, which are the layers."""
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            yield child
            yield from _outside_layers(child)
