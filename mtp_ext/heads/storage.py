"""Heads in a folder: heads.safetensors, which holds their configuration too, and config.json, a copy of that."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mtp_ext.heads.config import BaseModel, HeadsConfig

WEIGHTS, CONFIG = "heads.safetensors", "config.json"


def save(folder: Path, config: HeadsConfig, weights: Mapping[str, Tensor]) -> None:
    """Writes both files; each appears whole or not at all. One file holds all that `load` reads, so that it never
    finds weights and configuration of different heads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(), indent=2)
    tensors = {name: weight.detach().contiguous() for name, weight in weights.items()}
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt", "heads": text}))
    _replace(folder / CONFIG, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def load(folder: Path) -> tuple[HeadsConfig, dict[str, Tensor]]:
    """The configuration and the weights, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is cut short, or something else than heads.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"MTPHeads: folder must hold {WEIGHTS}, got {folder}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("heads")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if text is None:
            raise ValueError("a file without the heads' configuration")
        return HeadsConfig.from_dict(json.loads(text)), weights
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"MTPHeads: {path} must be a file that save_pretrained wrote, got: {error}") from error


def check_base(folder: Path, expected: BaseModel, actual: BaseModel) -> None:
    """Raises a ValueError, which says how they differ, unless heads of `expected` fit the model `actual`."""
    for field in ("architecture", "layers", "hidden_size", "vocab"):
        wanted, got = getattr(expected, field), getattr(actual, field)
        if wanted != got:
            raise ValueError(
                f"MTPHeads: the heads in {folder} are for {_name(expected)} with {field} {wanted}, "
                f"got a model with {field} {got}"
            )
    if expected.fingerprint != actual.fingerprint:
        raise ValueError(
            f"MTPHeads: the heads in {folder} are for {_name(expected)}, "
            f"got a model of the same architecture with other weights: {_name(actual)}"
        )


def fill(folder: Path, heads: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies the weights, whatever their dtype, into the heads.

    Raises:
        ValueError: other weights than the heads have.
    """
    try:
        heads.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip().partition("\n")[0]
        raise ValueError(f"MTPHeads: {folder / WEIGHTS} must hold the weights of its heads, got: {reason}") from error


def _name(base: BaseModel) -> str:
    return f"{base.name} ({base.architecture})" if base.name else base.architecture


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        write(Path(scratch))
        os.chmod(scratch, 0o644)  # mkstemp's files are private
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)
