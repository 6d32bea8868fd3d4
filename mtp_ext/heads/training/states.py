"""What heads read, of blocks of tokens: computed at each step, or once for a model that stays as it is."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mtp_ext.heads import LayerOutputs, MTPHeads
from mtp_ext.heads.training.data import Batch, Block, collate
from mtp_ext.heads.training.files import replace_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_META = "states.json"


class States(Protocol):
    """Where a training step gets the layer outputs of a batch from."""

    def __call__(self, batch: Batch) -> LayerOutputs: ...


class LiveStates:
    """From a pass of the model, with a gradient where its parameters want one."""

    def __init__(self, heads: MTPHeads, model: "PreTrainedModel") -> None:
        self._heads, self._model = heads, model

    def __call__(self, batch: Batch) -> LayerOutputs:
        return self._heads.layer_outputs(self._model, batch.input_ids)


class CachedStates:
    """Of all blocks, one [tokens, hidden] a layer in the model's dtype: in memory, or in files that are mapped into it.

    Args:
        blocks: whose states these are.
        layers: [tokens, hidden] each, those that the heads read and then the last hidden state; blocks one after the
            other.
    """

    def __init__(self, blocks: Sequence[Block], layers: Sequence[Tensor]) -> None:
        lengths = torch.tensor([len(block.tokens) for block in blocks])
        self._starts = [0, *lengths.cumsum(0).tolist()]
        self._layers = layers

    def __call__(self, batch: Batch) -> LayerOutputs:
        *layers, last = (self._batch(layer, batch) for layer in self._layers)
        return LayerOutputs(tuple(layers), last, batch.input_ids)

    def _batch(self, layer: Tensor, batch: Batch) -> Tensor:
        states = layer.new_zeros(*batch.input_ids.shape, layer.shape[1])
        for row, place in zip(states, batch.places, strict=False):  # a batch without blocks has a row for none
            start, end = self._starts[place : place + 2]
            row[: end - start] = layer[start:end]
        return states.to(batch.input_ids.device)

    def write(self, places: Sequence[int], outputs: LayerOutputs) -> None:
        """Keeps the states of these blocks."""
        for layer, states in zip(self._layers, [*outputs.layers, outputs.last_hidden], strict=True):
            for row, place in zip(states, places, strict=True):
                start, end = self._starts[place : place + 2]
                layer[start:end] = row[: end - start]


def states_bytes(heads: MTPHeads, model: "PreTrainedModel", blocks: Sequence[Block]) -> int:
    """What the states of these blocks take."""
    numbers = sum(len(block.tokens) for block in blocks) * heads.config.base.hidden_size
    return int(numbers * (len(heads.config.layers) + 1) * model.dtype.itemsize)


def compute_states(
    heads: MTPHeads,
    model: "PreTrainedModel",
    blocks: Sequence[Block],
    *,
    folder: Path | None = None,
    batch: int = 16,
    progress: Callable[[int], object] = lambda tokens: None,
) -> CachedStates:
    """The states of a frozen model, computed once.

    Args:
        heads: which say what they read.
        model: frozen, in evaluation mode.
        blocks: the data.
        folder: where they are kept for the next run; None keeps them in memory. A folder that holds the states of the
            same blocks and model is used as it is; one whose run was killed is filled anew.
        batch: blocks of a pass.
        progress: is told of tokens that are done.
    """
    shape = (sum(len(block.tokens) for block in blocks), heads.config.base.hidden_size)
    count = len(heads.config.layers) + 1
    if folder is None:
        states = CachedStates(blocks, [torch.empty(shape, dtype=model.dtype) for _ in range(count)])
    else:
        identity = _identity(heads, model, blocks)
        if _holds(folder, identity):
            progress(shape[0])
            return CachedStates(blocks, [_map(folder, index, shape, model.dtype) for index in range(count)])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        states = CachedStates(blocks, [_map(folder, index, shape, model.dtype) for index in range(count)])
    order = sorted(range(len(blocks)), key=lambda place: len(blocks[place].tokens))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        with torch.no_grad():
            states.write(places, heads.layer_outputs(model, collate(blocks, places, model.device).input_ids))
        progress(sum(len(blocks[place].tokens) for place in places))
    if folder is not None:
        replace_text(folder / _META, json.dumps(identity, indent=2))  # last: without it the folder is not complete
    return states


def _map(folder: Path, index: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    path = str(folder / f"states-{index}.bin")
    return torch.from_file(path, shared=True, size=shape[0] * shape[1], dtype=dtype).view(shape)


def _holds(folder: Path, identity: dict[str, object]) -> bool:
    try:
        return bool(json.loads((folder / _META).read_text(encoding="utf-8")) == identity)
    except (OSError, ValueError):
        return False


def identify(blocks: Sequence[Block]) -> dict[str, int]:
    """What tells one text from another."""
    tokens = torch.cat([block.tokens for block in blocks])
    weights = torch.arange(1, len(tokens) + 1) % 1_000_003
    starts = sum(block.first_target * (place + 1) for place, block in enumerate(blocks))
    return {"blocks": len(blocks), "tokens": len(tokens), "checksum": int((tokens * weights).sum()) + starts}


def _identity(heads: MTPHeads, model: "PreTrainedModel", blocks: Sequence[Block]) -> dict[str, object]:
    layers = [*heads.config.layers]
    return {"model": heads.config.base.fingerprint, "dtype": str(model.dtype), "layers": layers, **identify(blocks)}
