"""One pass of a model over a text, its hidden states at some positions, and the head that reads them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mtp_ext.integrations.model_head import ModelHead, watch_head
from mtp_ext.study.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TextStates(NamedTuple):
    """At n positions of a text.

    Attributes:
        layers: outputs of the layers 1 to L-1, each [n, hidden]; none where they were not asked for.
        last_hidden: [n, hidden], what the head reads.
        head: the model's.
    """

    layers: tuple[Tensor, ...]
    last_hidden: Tensor
    head: ModelHead


@torch.no_grad()
def text_states(
    model: "PreTrainedModel", text: Text, positions: Sequence[int], *, all_layers: bool = False
) -> TextStates:
    """Runs the text up to the last position.

    Raises:
        ValueError: a text that is longer than the model can read, logits that are not finite, or a model whose head
            is more than a final norm, an unembedding and a softcap.
    """
    length = positions[-1] + 1
    name = type(model).__name__
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ValueError(
            f"study, {text.path}: model must have a position for each of the {length} tokens, got {name} with "
            f"{limit} positions"
        )
    with watch_head(model) as watch:
        output = model(
            text.tokens[None, :length].to(model.device),
            use_cache=False,
            output_hidden_states=all_layers,
            logits_to_keep=1,
        )
    if not output.logits.isfinite().all():
        raise ValueError(f"study, {text.path}: model must give finite logits, got NaN or infinity")
    head = watch.head(output.logits)
    if head is None:
        raise ValueError(
            f"study: model must end in a norm and a linear unembedding, with at most a softcap behind it, got {name}"
        )
    places = torch.tensor(positions, device=model.device)
    layers = tuple(state[0, places] for state in output.hidden_states[1:-1]) if all_layers else ()
    return TextStates(layers, watch.last_hidden[0, places], head)
