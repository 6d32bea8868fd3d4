"""What heads need of a causal Hugging Face model, whatever it calls its parts."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from mtp_ext.heads.config import BaseModel
from mtp_ext.integrations.cache_argument import cache_argument, cache_option

_NORMS = ("norm", "final_layer_norm")
_ARGUMENTS = ("hidden_states", "attention_mask", "position_ids", "position_embeddings")
_SAMPLES = 64  # numbers of each weight in the fingerprint


@dataclass(frozen=True)
class LayerOutputs:
    """What one pass of the model left for heads to read, each [batch, tokens, hidden].

    Attributes:
        layers: of the layers that the heads read, in order; the last layer's is `last_hidden`.
        last_hidden: what the LM head reads, after the final norm.
        input_ids: int64 [batch, tokens]: the text, which sequential heads read too.
    """

    layers: tuple[Tensor, ...]
    last_hidden: Tensor
    input_ids: Tensor


class Backbone:
    """A model seen as layers, a final norm and an unembedding, which heads borrow and never change.

    Args:
        model: a transformers causal language model; also one that is wrapped by peft, or prepared for decoding.

    Raises:
        TypeError: not a transformers model.
        ValueError: an architecture without the usual decoder layers.
    """

    def __init__(self, model: Any) -> None:
        self.model = _unwrap(model)
        decoder: Any = self.model.base_model
        layers, rotary = getattr(decoder, "layers", None), getattr(decoder, "rotary_emb", None)
        norms = [getattr(decoder, name) for name in _NORMS if hasattr(decoder, name)]
        unembedding: Any = self.model.get_output_embeddings()
        is_usual = norms and rotary is not None and unembedding is not None
        if not is_usual or not isinstance(layers, nn.ModuleList) or len(layers) < 2 or not _is_usual(layers[-1]):
            raise ValueError(
                "MTPHeads: model must be a causal decoder with at least two layers, rotary positions, a final norm and "
                f"an LM head, as Llama and Qwen2 are, got {type(self.model).__name__}"
            )
        self.layers, self.norm = layers, norms[0]
        self.config = self.model.config.get_text_config(decoder=True)
        self._rotary: Any = rotary
        self._unembedding = unembedding

    @property
    def unembedding(self) -> Tensor:
        """[vocab, hidden]: of the LM head, without a gradient."""
        weight: Tensor = self._unembedding.weight
        return weight.detach()

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The model's own norm, frozen."""
        frozen = {name: weight.detach() for name, weight in self.norm.named_parameters()}
        normed: Tensor = functional_call(self.norm, frozen, (hidden,))
        return normed

    def layer_outputs(
        self, layers: Sequence[int], input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> LayerOutputs:
        """Runs the model, without its LM head, and keeps what these layers, counted from 1, give."""
        inner = [number for number in layers if number < len(self.layers)]
        with _kept(self.layers, inner) as outputs:
            output = self.model.base_model(input_ids, attention_mask=attention_mask, use_cache=False)
        if len(self.layers) in layers:
            outputs.append(output.last_hidden_state)
        return LayerOutputs(tuple(outputs), output.last_hidden_state, input_ids)

    def rotation(self, hidden: Tensor, position_ids: Tensor) -> Any:
        """What the final layer is given of positions, int64 [batch, tokens]."""
        if "layer_type" in inspect.signature(self._rotary.forward).parameters:
            return self._rotary(hidden, position_ids, self.config.layer_types[-1])
        return self._rotary(hidden, position_ids)

    def causal_mask(self, hidden: Tensor, position_ids: Tensor, attention_mask: Tensor | None, cache: Any) -> Any:
        """What the final layer is given of who sees whom."""
        create = create_sliding_window_causal_mask if self._slides else create_causal_mask
        return create(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **cache_option(create, cache),
        )

    def cache_options(self, cache: Any) -> dict[str, Any]:
        """The keyword arguments by which a layer takes a cache."""
        return cache_option(type(self.layers[-1]).forward, cache) | {"use_cache": cache is not None}

    def describe(self) -> BaseModel:
        """The model, as heads remember it."""
        vocab, hidden = self.unembedding.shape
        name = str(getattr(self.model, "name_or_path", ""))
        return BaseModel(name, type(self.model).__name__, len(self.layers), hidden, vocab, self.fingerprint())

    def fingerprint(self) -> str:
        """A hash of evenly spaced numbers of every weight, rounded to bfloat16: the same for a model that was loaded
        in float32 and in bfloat16, another one after any training."""
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            flat = weight.detach().flatten()
            places = torch.linspace(0, flat.numel() - 1, _SAMPLES, dtype=torch.float64).long()
            sample = flat[places.to(flat.device)].bfloat16().view(torch.int16)
            digest.update(name.encode())
            digest.update(sample.cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def _slides(self) -> bool:
        types = getattr(self.config, "layer_types", None)
        if types is not None:
            return bool(types[len(self.layers) - 1] == "sliding_attention")
        return getattr(self.config, "sliding_window", None) is not None


def _unwrap(model: Any) -> PreTrainedModel:
    if hasattr(model, "get_base_model"):  # peft's
        model = model.get_base_model()
    elif not isinstance(model, nn.Module):  # a PreparedModel or a TransformersTarget
        model = getattr(model, "model", model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"MTPHeads: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    return model


def _is_usual(layer: nn.Module) -> bool:
    """Whether a decoder layer is called as Llama's are."""
    known = inspect.signature(layer.forward).parameters
    return cache_argument(type(layer).forward) is not None and all(name in known for name in _ARGUMENTS)


@contextmanager
def _kept(layers: nn.ModuleList, numbers: Iterable[int]) -> Iterator[list[Tensor]]:
    """The outputs of these layers, counted from 1, as a pass runs."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handles = [layers[number - 1].register_forward_hook(keep) for number in numbers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
