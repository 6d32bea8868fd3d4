"""A model tuned by LoRA for the next token alone: what marginalization is given where heads get their training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from mtp_ext.heads.backbone import Backbone
from mtp_ext.heads.training.data import Block, collate, epoch_batches
from mtp_ext.heads.training.losses import head_losses
from mtp_ext.heads.training.recipes import add_adapters
from mtp_ext.heads.training.schedule import cosine
from mtp_ext.heads.training.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tune(
    model: "PreTrainedModel", blocks: Sequence[Block], settings: Settings, tick: Callable[[int], object]
) -> "PreTrainedModel":
    """Trains adapters on the blocks as `settings` trains the backbone of a joint recipe, and merges them.

    Args:
        model: a copy, which is changed.
        blocks: text.
        settings: epochs, batch, learning rate, weight decay, seed and arithmetic.
        tick: is told of steps that are done.

    Returns:
        The model with its weights moved.
    """
    adapted = add_adapters(model)
    backbone = Backbone(adapted)
    learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    device = backbone.unembedding.device
    batches = [
        places
        for epoch in range(settings.epochs)
        for places in epoch_batches(blocks, settings.batch, settings.seed, epoch)
    ]
    for step, places in enumerate(batches):
        batch = collate(blocks, places, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.arithmetic == "bfloat16"):
            hidden = backbone.layer_outputs((), batch.input_ids).last_hidden
        loss = head_losses(hidden[batch.positions(1)], backbone.unembedding, batch.targets(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = settings.learning_rate * cosine(step, len(batches))
        optimizer.step()
        tick(1)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.eval()
