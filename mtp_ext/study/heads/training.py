"""Heads of one strategy, trained as `mtp-ext train` trains them, so that a run that was stopped goes on."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import Block, epoch_batches
from mtp_ext.heads.training.loop import Targets, Training, observed
from mtp_ext.heads.training.processes import Processes
from mtp_ext.heads.training.recipes import add_adapters
from mtp_ext.heads.training.settings import Settings
from mtp_ext.heads.training.states import LiveStates, States, compute_states
from mtp_ext.heads.training.teacher import Teacher, identity_of, teach
from mtp_ext.study.heads.strategies import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HORIZONS = (1, 2)
_SECONDS_BETWEEN_SAVES = 60.0


def train_heads(
    model: "PreTrainedModel",
    strategy: Strategy,
    blocks: Sequence[Block],
    settings: Settings,
    folder: Path,
    facts: Mapping[str, Any],
    tick: Callable[[int], object],
) -> tuple[MTPHeads, Any]:
    """Trains heads for the next and the second token.

    Args:
        model: a copy, which a joint recipe gives adapters.
        strategy: with a recipe.
        blocks: what is learned from.
        settings: all but the recipe, the horizons and what the heads read.
        folder: for the checkpoint; removed when the strategy's result is kept.
        facts: what else the run depends on; a checkpoint of another run is begun anew.
        tick: is told of steps that are done.

    Returns:
        The heads, and the model that they read.
    """
    assert strategy.recipe is not None
    settings = replace(settings, recipe=strategy.recipe, horizons=HORIZONS, hidden_states=strategy.hidden_states)
    model.requires_grad_(False)
    heads = MTPHeads.from_model(model, HORIZONS, hidden_states=settings.hidden_states, seed=settings.seed)
    if settings.strategy.joint:
        model = add_adapters(model)
    states: States = LiveStates(heads, model) if settings.strategy.joint else compute_states(heads, model, blocks)
    folder.mkdir(parents=True, exist_ok=True)
    targets = _taught(model, blocks, settings, folder, facts) if settings.strategy.distill else observed
    device = heads.unembedding.device
    training = Training(settings, model, heads, blocks, states, Processes(device), targets=targets, facts=dict(facts))
    try:
        training.resume(folder)
    except ValueError:
        shutil.rmtree(folder)
        folder.mkdir()
    tick(training.step)
    saved = time.monotonic()
    for _ in training.run():
        tick(1)
        # Between steps alone: Ctrl-C may come when half of the weights have moved.
        if time.monotonic() - saved >= _SECONDS_BETWEEN_SAVES:
            training.save(folder)
            saved = time.monotonic()
    return heads, model


def _taught(
    model: "PreTrainedModel", blocks: Sequence[Block], settings: Settings, folder: Path, facts: Mapping[str, Any]
) -> Targets:
    """The model's own marginals, kept in the folder until the strategy is done."""
    teacher = Teacher(model, paths=settings.paths, k=settings.soft_targets)
    identity = identity_of(**settings.identity(), facts=dict(facts))
    tokens = sum(len(block.tokens) for block in blocks)
    with tqdm(total=tokens, unit="token", desc="marginals to be taught") as progress:
        return teach(
            teacher, blocks, HORIZONS[-1], model.device, folder / "marginals.safetensors", identity, progress.update
        )


def planned_steps(strategy: Strategy, blocks: Sequence[Block], settings: Settings) -> int:
    """How many steps a strategy takes."""
    warmup = 0 if strategy.recipe is None else int(replace(settings, recipe=strategy.recipe).strategy.warmup)
    return len(epoch_batches(blocks, settings.batch, settings.seed, 0)) * (settings.epochs + warmup)
