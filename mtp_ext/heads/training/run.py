"""A training run from text to a folder with heads, a log and a plot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.config import SEQUENTIAL
from mtp_ext.heads.training import memory
from mtp_ext.heads.training.columns import frequent_tokens
from mtp_ext.heads.training.data import Block
from mtp_ext.heads.training.log import draw, write_log
from mtp_ext.heads.training.loop import Targets, Training, observed
from mtp_ext.heads.training.next_tokens import next_token_targets
from mtp_ext.heads.training.processes import Processes
from mtp_ext.heads.training.recipes import add_adapters
from mtp_ext.heads.training.settings import Settings
from mtp_ext.heads.training.states import LiveStates, States, compute_states, identify, states_bytes
from mtp_ext.heads.training.teacher import Teacher, identity_of, teach
from mtp_ext.heads.training.validation import Accuracy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS, MODEL, LOG, PLOT = "heads", "model", "training.json", "training.png"


class Progress(Protocol):
    """Who is told how a run goes on."""

    def phase(self, name: str, total: int, unit: str) -> Callable[[int], object]:
        """Something begins; returns whom to tell how much of it is done."""

    def losses(self, horizons: Sequence[int], losses: Sequence[float]) -> None: ...

    def accuracies(self, epoch: float, accuracies: Sequence[Accuracy]) -> None: ...


@dataclass(frozen=True)
class Text:
    """What is learned from and, where there is any, what is only predicted."""

    training: Sequence[Block]
    heldout: Sequence[Block]


def train(
    settings: Settings,
    model: "PreTrainedModel",
    text: Text,
    output: Path,
    progress: Progress,
    *,
    start: Path | None = None,
    cache: str = "memory",
    checkpoint_every: int = 200,
    configuration: dict[str, Any] | None = None,
) -> MTPHeads:
    """Trains heads, going on where an earlier run of the same was stopped.

    Writes to `output`: checkpoints as it goes; then `heads`, for a joint recipe `model`, the model that belongs to
    them with its adapters merged, the log `training.json` and the plot `training.png`.

    Args:
        settings: what is done.
        model: in evaluation mode, in the dtype of the settings' arithmetic; a joint recipe changes it, the others do
            not.
        text: blocks.
        output: a folder.
        progress: is told.
        start: a folder with heads to go on from, of the settings' horizons and kind, or sequential ones that become
            prefix heads; None: new ones.
        cache: hidden states of a frozen model are computed once and kept in "memory", or on "disk", below `output`;
            "none" computes them at each step.
        checkpoint_every: so many steps.
        configuration: what was run, for the log.

    Raises:
        ValueError: a checkpoint of another run, or one that is cut short; a model that does not fit.
        MemoryError: too little memory; the message says what would fit.
        KeyboardInterrupt: Ctrl-C; a checkpoint is written first.
    """
    recipe = settings.strategy
    model.requires_grad_(False)
    processes = Processes(model.device)
    heads = _new_heads(settings, model) if start is None else _old_heads(settings, model, start)
    free = memory.free_bytes() if model.device.type == "cpu" else None
    memory.check_batch(heads.config, batch=settings.batch, block=settings.block, joint=recipe.joint, free=free)
    output.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"model": heads.config.base.fingerprint, "text": identify(text.training)}
    if start is not None:
        facts["start"] = str(start)
    trained: Any = model
    if recipe.joint:
        torch.manual_seed(settings.seed)
        trained = add_adapters(model)
    states_of = _states(heads, trained, output, "none" if recipe.joint else cache, free, progress)
    states = states_of("training", text.training)
    targets = _targets(settings, model, heads, text.training, states, output, facts, progress)
    training = Training(
        settings,
        trained,
        heads,
        text.training,
        states,
        processes,
        targets=targets,
        facts=facts,
    )
    training.resume(output)
    heldout = states_of("heldout", text.heldout) if text.heldout else None
    _run(training, text.heldout, heldout, output, progress, checkpoint_every)
    if processes.first:
        if recipe.joint:
            merged = trained.merge_and_unload()
            merged.save_pretrained(output / MODEL)
            heads.bind(merged)
        if settings.draft_tokens is not None:
            heads.draft_from(frequent_tokens(text.training, heads.config.base.vocab, settings.draft_tokens))
        heads.eval().to(torch.bfloat16).save_pretrained(output / HEADS)
        write_log(output / LOG, training.log, (configuration or {}) | {"settings": settings.identity()} | facts)
        draw(output / PLOT, training.log)
    processes.wait()
    return heads


def _new_heads(settings: Settings, model: "PreTrainedModel") -> MTPHeads:
    return MTPHeads.from_model(
        model,
        settings.horizons,
        kind=settings.kind,
        hidden_states=settings.hidden_states,
        width=settings.width,
        seed=settings.seed,
    ).float()


def _old_heads(settings: Settings, model: "PreTrainedModel", folder: Path) -> MTPHeads:
    old = MTPHeads.from_pretrained(folder, model).float()
    grows = (old.config.kind, settings.kind) == ("sequential", "prefix")
    for name in ("horizons", "hidden_states") if grows else ("horizons", "kind", "hidden_states"):
        if (got := getattr(old.config, name)) != (wanted := getattr(settings, name)):
            raise ValueError(f"train: the heads in {folder} must have {name} {wanted}, got {got}")
    if not grows:
        return old
    heads = _new_heads(replace(settings, width=old.config.width), model)
    heads.load_state_dict(old.state_dict(), strict=False)  # all that sequential heads have; what looks back is new
    return heads


def _run(
    training: Training,
    blocks: Sequence[Block],
    states: States | None,
    output: Path,
    progress: Progress,
    checkpoint_every: int,
) -> None:
    def validate() -> None:
        if states is not None:
            progress.accuracies(training.step / training.steps_of_epoch, training.validate(blocks, states))

    if training.step == 0:
        validate()
    advance = progress.phase(f"Training, from step {training.step}", training.steps - training.step, "step")
    try:
        for losses in training.run():
            advance(1)
            progress.losses(training.log.horizons, losses.tolist())
            if training.step % training.steps_of_epoch == 0:
                validate()
            if training.step % checkpoint_every == 0 or training.step == training.steps:
                training.save(output)
    except KeyboardInterrupt:
        training.save(output)
        raise


def _targets(
    settings: Settings,
    model: "PreTrainedModel",
    heads: MTPHeads,
    blocks: Sequence[Block],
    states: States,
    output: Path,
    facts: dict[str, Any],
    progress: Progress,
) -> Targets:
    if not settings.strategy.distill:
        return observed
    furthest = max(heads.config.horizons)
    if furthest < 2:
        raise ValueError(f"train: recipe distill needs a horizon from 2 on, got {list(heads.config.horizons)}")
    tokens = sum(len(block.tokens) for block in blocks)
    if heads.config.kind in SEQUENTIAL:
        advance = progress.phase("Next tokens of the model", tokens, "token")
        return next_token_targets(states, blocks, model, furthest=furthest, k=settings.soft_targets, progress=advance)
    teacher = Teacher(model, paths=settings.paths, k=settings.soft_targets)
    identity = identity_of(**facts, paths=settings.paths, k=settings.soft_targets, furthest=furthest)
    advance = progress.phase("Marginals of the model", tokens, "token")
    return teach(teacher, blocks, furthest, model.device, output / "marginals.safetensors", identity, advance)


def _states(
    heads: MTPHeads, model: Any, output: Path, cache: str, free: int | None, progress: Progress
) -> Callable[[str, Sequence[Block]], States]:
    def of(name: str, blocks: Sequence[Block]) -> States:
        if cache == "none":
            return LiveStates(heads, model)
        tokens = sum(len(block.tokens) for block in blocks)
        if cache == "memory":
            memory.check_states(states_bytes(heads, model, blocks), tokens, free)
        folder = output / "states" / name if cache == "disk" else None
        advance = progress.phase(f"Hidden states, {name} text", tokens, "token")
        return compute_states(heads, model, blocks, folder=folder, progress=advance)

    return of
