"""A run that can go on: parameters, the optimizer's state and the step, in one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mtp_ext.heads.training.files import replace_file

NAME = "checkpoint.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Writes the checkpoint.

    Args:
        folder: must exist.
        parameters: those that learn, by name.
        optimizer: AdamW over them.
        facts: step, log and what identifies the run, as JSON takes them.
    """
    tensors = {f"parameter/{name}": parameter.detach().contiguous() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for moment in _MOMENTS:
            if moment in (state := optimizer.state[parameter]):
                tensors[f"{moment}/{name}"] = state[moment].contiguous()
    metadata = {"facts": json.dumps(facts)}
    replace_file(folder / NAME, lambda path: save_file(tensors, path, metadata=metadata))


def load_checkpoint(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Puts parameters and optimizer where they were, and returns the facts; None where there is no checkpoint.

    Args:
        identity: what the checkpoint's run must have been, its facts' "identity".

    Raises:
        ValueError: a file that is cut short, or a checkpoint of another run; nothing was changed then.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"train: {path} must be a whole checkpoint, got: {error}; remove it to begin anew") from error
    for name, expected in identity.items():
        if (got := facts["identity"].get(name)) != expected:
            raise ValueError(
                f"train: {path} must be of this run, with {name} {expected}, got one with {got}; "
                "name another --output, or remove it to begin anew"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            for moment in _MOMENTS:
                if (key := f"{moment}/{name}") in tensors:
                    state = tensors[key]
                    optimizer.state[parameter][moment] = state if moment == "step" else state.to(parameter.device)
    return facts
