"""Training, step by step, so that a run that was killed ends as if it had not been."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.checkpoint import load_checkpoint, save_checkpoint
from mtp_ext.heads.training.columns import ColumnSampler
from mtp_ext.heads.training.data import Batch, Block, collate, epoch_batches
from mtp_ext.heads.training.log import Log
from mtp_ext.heads.training.losses import head_losses, rms_scales
from mtp_ext.heads.training.processes import Processes
from mtp_ext.heads.training.recipes import parameter_groups
from mtp_ext.heads.training.schedule import cosine
from mtp_ext.heads.training.settings import Settings
from mtp_ext.heads.training.states import States
from mtp_ext.heads.training.validation import Accuracy, validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Targets = Callable[[Batch, int], tuple[Tensor, Tensor | None]]


def observed(batch: Batch, horizon: int) -> tuple[Tensor, None]:
    """The tokens that the text goes on with, as targets."""
    return batch.targets(horizon), None


class Training:
    """A run: heads, and in a joint recipe the model's adapters, learn from blocks of text.

    Args:
        settings: what is done.
        model: frozen, or with adapters that learn, in evaluation mode.
        heads: of it, in float32.
        blocks: text to learn from.
        states: where the layer outputs of a batch come from.
        processes: that train together.
        targets: what heads are taught, given a batch and a horizon.
        facts: what else identifies the run, for its checkpoints, as JSON takes it.

    Attributes:
        steps: how many there are altogether.
        step: how many are done.
        log: of losses and accuracies.
    """

    def __init__(
        self,
        settings: Settings,
        model: "PreTrainedModel",
        heads: MTPHeads,
        blocks: Sequence[Block],
        states: States,
        processes: Processes,
        *,
        targets: Targets = observed,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.settings, self.model, self.heads, self.blocks = settings, model, heads, blocks
        self._states, self._processes, self._targets = states, processes, targets
        self._identity = settings.identity() | (facts or {})
        recipe = settings.strategy
        self._warmup = 1 if recipe.warmup else 0  # epochs
        self.steps_of_epoch = len(epoch_batches(blocks, settings.batch, settings.seed, 0))
        self.steps = self.steps_of_epoch * (settings.epochs + self._warmup)
        self.step = 0
        self.log = Log(self._horizons)
        self._sampler = None if settings.columns is None else ColumnSampler(blocks, self._vocab, settings.columns)
        self._groups = parameter_groups(recipe, heads, model, settings.learning_rate)
        self._optimizer = torch.optim.AdamW(self._groups, weight_decay=settings.weight_decay)

    @property
    def _horizons(self) -> list[int]:
        """Those that have a loss: joint training keeps the model's own next token in it."""
        own = [1] if self.settings.strategy.joint and 1 not in self.heads.config.horizons else []
        return [*own, *self.heads.config.horizons]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that learn, by name."""
        named = [(f"heads.{name}", parameter) for name, parameter in self.heads.named_parameters()]
        named += [(f"model.{name}", parameter) for name, parameter in self.model.named_parameters()]
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def save(self, folder: Path) -> None:
        """Writes the checkpoint; only the first process does."""
        if self._processes.first:
            facts = {"identity": self._identity, "step": self.step, "log": self.log.to_dict()}
            save_checkpoint(folder, self.parameters, self._optimizer, facts)
        self._processes.wait()

    def resume(self, folder: Path) -> bool:
        """Goes on from the checkpoint in this folder; whether there was one.

        Raises:
            ValueError: one that is cut short, or of another run.
        """
        facts = load_checkpoint(folder, self.parameters, self._optimizer, self._identity)
        if facts is not None:
            self.step, self.log = facts["step"], Log.from_dict(facts["log"])
        return facts is not None

    def run(self) -> Iterator[Tensor]:
        """Goes on to the end; gives the mean loss of each horizon, float64 [horizons], after each step."""
        while self.step < self.steps:
            epoch, first = divmod(self.step, self.steps_of_epoch)
            batches = epoch_batches(self.blocks, self.settings.batch, self.settings.seed, epoch)
            for places in batches[first:]:
                losses = self._learn(places, epoch)
                self.step += 1
                self.log.add_step(self.step, self.step / self.steps_of_epoch, losses.tolist())
                yield losses

    def validate(self, blocks: Sequence[Block], states: States) -> list[Accuracy]:
        """On held-out text; into the log, too."""
        self.heads.eval()
        with self._arithmetic():
            found = validate(self.heads, states, blocks, self.settings.batch, self._unembedding)
        self.log.add_validation(self.step, [asdict(accuracy) for accuracy in found])
        return found

    @property
    def _vocab(self) -> int:
        return self._unembedding.shape[0]

    @property
    def _unembedding(self) -> Tensor:
        return self.heads.unembedding

    def _arithmetic(self) -> AbstractContextManager[Any]:
        device = self._unembedding.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.arithmetic == "bfloat16")

    def _learn(self, places: list[int], epoch: int) -> Tensor:
        """One step; the mean loss of each horizon over the whole batch."""
        self.heads.train()
        backbone = epoch >= self._warmup
        batch = collate(self.blocks, self._processes.share(places), self._unembedding.device)
        for group in self._groups:
            for parameter in group["params"]:
                parameter.grad = None
        losses = self._losses(batch, epoch)
        sums = [[loss.sum(), loss.square().sum(), loss.new_tensor(len(loss))] for loss in losses]
        totals = self._processes.sum(torch.stack([torch.stack(row).detach().double() for row in sums]))
        counts = totals[:, 2].clamp(min=1)
        weights = rms_scales(totals[:, 1], totals[:, 2]) / counts
        torch.stack([row[0] * weight.float() for row, weight in zip(sums, weights, strict=True)]).sum().backward()
        self._processes.sum_gradients(self.parameters.values())
        self._update(backbone)
        return totals[:, 0] / counts

    def _losses(self, batch: Batch, epoch: int) -> list[Tensor]:
        """Of each horizon [rows], in nats."""
        with self._arithmetic():
            with torch.set_grad_enabled(self.settings.strategy.joint and epoch >= self._warmup):
                states = self._states(batch)
            hidden = dict(zip(self.heads.config.horizons, self.heads(states), strict=True))
        if 1 not in hidden:
            hidden[1] = states.last_hidden
        return [self._head_losses(batch, n, hidden[n][batch.positions(n)], epoch) for n in self._horizons]

    def _head_losses(self, batch: Batch, horizon: int, hidden: Tensor, epoch: int) -> Tensor:
        targets, probs = self._targets(batch, horizon)
        exact = epoch >= self._warmup + self.settings.epochs - self.settings.exact_epochs
        if self._sampler is None or exact:
            return head_losses(hidden, self._unembedding, targets, probs)
        columns = self._sampler(targets, seed=self.step)
        return head_losses(hidden, self._unembedding[columns.tokens], columns.places[targets], probs, columns.offsets)

    def _update(self, backbone: bool) -> None:
        warm = self._warmup * self.steps_of_epoch
        for index, group in enumerate(self._optimizer.param_groups):
            if index > 0 and not backbone:
                rate = 0.0
            elif index > 0:
                rate = group["peak"] * cosine(self.step - warm, self.steps - warm)
            else:
                rate = group["peak"] * cosine(self.step, self.steps)
            group["lr"] = rate
        if not backbone:  # adapters have no gradient; AdamW leaves them, and their moments, as they are
            for group in self._optimizer.param_groups[1:]:
                for parameter in group["params"]:
                    parameter.grad = None
        self._optimizer.step()
