"""What a run has seen: a log in JSON, and a plot of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtp_ext.heads.training.files import replace_file, replace_text


@dataclass
class Log:
    """Losses and accuracies.

    Attributes:
        horizons: of the losses.
        steps: of each step its number, the epochs done by then, and the mean loss of each horizon, nats.
        validations: the step, and the fields of every `Accuracy`.
    """

    horizons: list[int]
    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)

    def add_step(self, step: int, epoch: float, losses: Sequence[float]) -> None:
        self.steps.append({"step": step, "epoch": epoch, "losses": list(losses)})

    def add_validation(self, step: int, accuracies: Sequence[Mapping[str, Any]]) -> None:
        self.validations.append({"step": step, "accuracies": [dict(accuracy) for accuracy in accuracies]})

    def to_dict(self) -> dict[str, Any]:
        return {"horizons": self.horizons, "steps": self.steps, "validations": self.validations}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Log":
        return cls(**fields)


def write_log(path: Path, log: Log, configuration: Mapping[str, Any]) -> None:
    """Writes the log and what was run as JSON."""
    replace_text(path, json.dumps({"configuration": dict(configuration), **log.to_dict()}, indent=1))


def draw(path: Path, log: Log) -> None:
    """Writes a PNG: the loss of each horizon by step, and top-1 accuracy on held-out text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    number = [entry["step"] for entry in log.steps]
    for index, horizon in enumerate(log.horizons):
        values = [entry["losses"][index] for entry in log.steps]
        loss.plot(number, values, color=f"C{index}", linewidth=0.6, alpha=0.35)
        loss.plot(number, _smooth(values), color=f"C{index}", label=f"x[t+{horizon}]")
        checks = [(v["step"], a) for v in log.validations for a in v["accuracies"] if a["kind"] == "all"]
        points = [(step, a["top1"]) for step, a in checks if a["horizon"] == horizon]
        if points:
            accuracy.plot(*zip(*points, strict=True), "o-", color=f"C{index}", label=f"x[t+{horizon}]")
    loss.set(xlabel="step", ylabel="cross entropy (nats)", title="Training loss")
    accuracy.set(xlabel="step", ylabel="share of tokens", ylim=(0, 1), title="Held-out text: most probable token")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    replace_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=120))


def _smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """An exponential mean, unbiased at its beginning."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = (1 - share) * mean + share * value, (1 - share) * weight + share
        out.append(mean / weight)
    return out
