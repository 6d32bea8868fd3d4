"""`prepare`: a Hugging Face model made ready for decoding, without a change to what it says."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mtp_ext.decoding.exchange import ExchangedLinears, is_exchanged
from mtp_ext.decoding.lean_model import LeanModel, why_not_lean
from mtp_ext.decoding.linear import Linear
from mtp_ext.decoding.model_check import Expected, ask, distance
from mtp_ext.decoding.target import TargetPass, TransformersTarget, check_model
from mtp_ext.kv_cache import KVCache
from mtp_ext.tree import TokenTree

_OP = "prepare"
_STORAGE = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class PreparedModel:
    """A model that `prepare` has made ready: a `Target`. As a context manager it restores the model at the end.

    Attributes:
        model: the model that was given.
        how: how passes run and, where it is not the lean pass, why.
        packed_bytes: memory that its packed weights take beside the model's own.
        vocab, max_positions, dtype, device: as of every `Target`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        target: LeanModel | TransformersTarget,
        how: str,
        linears: list[Linear],
        exchanged: ExchangedLinears | None,
    ) -> None:
        self.model = model
        self.how = how
        self.packed_bytes = sum(linear.nbytes for linear in linears)
        self.vocab, self.max_positions = target.vocab, target.max_positions
        self.dtype, self.device = target.dtype, target.device
        self._running: LeanModel | TransformersTarget | None = target
        self._exchanged = exchanged

    def __repr__(self) -> str:
        name, packed = type(self.model).__name__, f"{self.packed_bytes / 1e6:.0f} MB packed"
        return f"PreparedModel({name}: {self.how if self._running else 'restored'}, {packed})"

    def __enter__(self) -> "PreparedModel":
        return self

    def __exit__(self, *_: Any) -> None:
        self.restore()

    def restore(self) -> None:
        """Gives the model back as it was and releases the packed weights; this object then runs no more passes."""
        if self._exchanged is not None:
            self._exchanged.restore()
        self._exchanged = self._running = None
        self.packed_bytes = 0

    @property
    def _target(self) -> LeanModel | TransformersTarget:
        if self._running is None:
            raise ValueError("PreparedModel: the model has been restored; prepare it again")
        return self._running

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        return self._target.new_cache(batch, capacity)

    def prefill(self, input_ids: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> TargetPass:
        return self._target.prefill(input_ids, cache, attention_mask)

    def run_tree(self, tree: TokenTree, cache: KVCache) -> TargetPass:
        return self._target.run_tree(tree, cache)

    def keeping(self, layers: Sequence[int]) -> "PreparedModel":
        prepared = copy(self)
        prepared._running = self._target.keeping(layers)
        return prepared

    def draft_head(self, tokens: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return self._target.draft_head(tokens)


def prepare(model: PreTrainedModel, *, storage: str = "auto", arithmetic: str = "float32") -> PreparedModel:
    """Makes a model ready for decoding: linear layers by `skinny_linear`, attention by `tree_attention`.

    Llama, Mistral, Qwen2, Qwen3, SmolLM3 and Gemma 2 run by a lean pass of our own, in float32 but for what
    `arithmetic` says, with one product for queries, keys and values and one for gate and up; the model itself is not
    touched. Any other model that tree attention serves runs by its own code, with its linear layers exchanged in
    place. Both are compared with the model first, on a short prompt and a small tree: `PreparedModel.how` says which
    it is, and why. `PreparedModel.restore` undoes it.

    Packed weights lie beside the model's own: twice its memory where they are stored in its dtype.

    Args:
        model: a transformers causal language model in evaluation mode.
        storage: of packed weights: "float32", "bfloat16" where every weight is a bfloat16 number, or "auto", which is
            bfloat16 for each weight where that changes nothing.
        arithmetic: "float32", or "bfloat16" for products, and in the lean pass keys and values, in bfloat16; weights
            must then be bfloat16 numbers. Logits are float32.

    Raises:
        TypeError: not a transformers model.
        ValueError: a model in training mode, one that tree attention does not serve or that then says something else,
            or weights that are no bfloat16 numbers where they must be.
    """
    check_model(_OP, model)
    if model.training:
        raise ValueError(f"{_OP}: model must be in evaluation mode; call model.eval()")
    if is_exchanged(model):
        raise ValueError(f"{_OP}: model is prepared already; call restore() of the PreparedModel first")
    packed = _storage(storage, arithmetic)
    expected = ask(model)
    why = why_not_lean(model)
    if why is None:
        lean = LeanModel(model, packed)
        if (far := distance(lean, expected)) <= expected.budget:
            how = f"lean pass, {_in_words(lean.linears, arithmetic)}"
            return PreparedModel(model, lean.with_arithmetic(arithmetic), how, lean.linears, None)
        why = f"the lean pass was {_too_far(far, expected)}"
        del lean  # before other weights are packed
    return _exchange(model, packed, arithmetic, expected, why)


def _exchange(
    model: PreTrainedModel, storage: torch.dtype | None, arithmetic: str, expected: Expected, why: str
) -> PreparedModel:
    target = TransformersTarget(model)
    if not (far := distance(target, expected)) <= expected.budget:
        raise ValueError(
            f"{_OP}: model must say the same with tree attention as with its own, "
            f"got {type(model).__name__}, which was {_too_far(far, expected)}"
        )
    exchanged = ExchangedLinears(model, storage)
    try:
        far = distance(target, expected)
    except BaseException:
        exchanged.restore()
        raise
    if not far <= expected.budget:
        exchanged.restore()
        why = f"{why}, and with packed linear layers it was {_too_far(far, expected)}"
        return PreparedModel(model, target, f"transformers' pass with its own linear layers, since {why}", [], None)
    exchanged.use(arithmetic)
    if not exchanged:
        return PreparedModel(
            model, target, f"transformers' pass, which has no linear layer to pack, since {why}", [], None
        )
    how = f"transformers' pass, {len(exchanged)} linear layers {_in_words(exchanged.linears, arithmetic)}, since {why}"
    return PreparedModel(model, target, how, exchanged.linears, exchanged)


def _storage(storage: str, arithmetic: str) -> torch.dtype | None:
    if storage not in _STORAGE:
        raise ValueError(f'{_OP}: storage must be "auto", "float32" or "bfloat16", got {storage!r}')
    if arithmetic not in ("float32", "bfloat16"):
        raise ValueError(f'{_OP}: arithmetic must be "float32" or "bfloat16", got {arithmetic!r}')
    if arithmetic == "float32":
        return _STORAGE[storage]
    if storage == "float32":
        raise ValueError(f'{_OP}: storage must be "bfloat16" or "auto" for bfloat16 arithmetic, got {storage!r}')
    return torch.bfloat16


def _in_words(linears: list[Linear], arithmetic: str) -> str:
    stored = " and ".join(sorted({str(linear.packed.storage).removeprefix("torch.") for linear in linears}))
    return f"stored in {stored}, multiplied in {arithmetic}"


def _too_far(far: float, expected: Expected) -> str:
    return f"{far:.2g} from the model's logits, where rounding explains {expected.budget:.2g}"
