"""One voice for every refusal: `op: argument must be EXPECTED, got WHAT CAME`; csrc/checks.h says the same words."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

LOGIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# A dimension of an expected shape: its name, and its size where it is known.
Dimension = tuple[str, int | None]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def check_tensor(
    op: str,
    argument: str,
    tensor: Any,
    shape: Sequence[Dimension],
    dtypes: Sequence[torch.dtype],
    like: torch.Tensor | None = None,
) -> None:
    """Raises unless `tensor` has this shape and one of these dtypes, on the device of `like`, with a contiguous
    last dimension.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: of another shape, on another device, or not contiguous in its last dimension.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {argument} must be a Tensor, got {type(tensor).__name__}")
    device = (tensor if like is None else like).device
    right_dtype = tensor.dtype in dtypes
    right_shape = tensor.dim() == len(shape) and all(
        size is None or actual == size for actual, (_, size) in zip(tensor.shape, shape, strict=True)
    )
    if not (right_dtype and right_shape and tensor.device == device):
        names = ", ".join(name if size is None else f"{name}={size}" for name, size in shape)
        expected = f"[{names}] {_join([_dtype_name(dtype) for dtype in dtypes])} on {device}"
        actual = f"{list(tensor.shape)} {_dtype_name(tensor.dtype)} on {tensor.device}"
        error = ValueError if right_dtype else TypeError
        raise error(f"{op}: {argument} must be {expected}, got {actual}")
    if tensor.dim() > 0 and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{op}: {argument} must be contiguous in its last dimension, got stride {tensor.stride(-1)}; "
            "call .contiguous() on it"
        )


def check_range(op: str, argument: str, value: int, low: int, high: int) -> None:
    """Raises unless `value` is an integer from `low` to `high`."""
    if not isinstance(value, int | torch.SymInt) or isinstance(value, bool):
        raise TypeError(f"{op}: {argument} must be an integer, got {type(value).__name__}")
    if value < low or value > high:
        raise ValueError(f"{op}: {argument} must be from {low} to {high}, got {value}")


def check_number(op: str, argument: str, value: float) -> None:
    """Raises unless `value` is a number."""
    if not isinstance(value, int | float | torch.SymInt | torch.SymFloat) or isinstance(value, bool):
        raise TypeError(f"{op}: {argument} must be a number, got {type(value).__name__}")


def check_flag(op: str, argument: str, value: bool) -> None:
    """Raises unless `value` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {argument} must be a bool, got {type(value).__name__}")


def has_values(tensor: torch.Tensor) -> bool:
    """Whether the values can be read here and now: on a CPU, and not while tracing."""
    return tensor.device.type == "cpu" and not isinstance(tensor, torch._subclasses.FakeTensor)


def check_branches(
    op: str,
    branch_logits: torch.Tensor,
    branch_log_probs: torch.Tensor,
    indptr: torch.Tensor | None,
    argument: str = "branch_logits",
    width: str = "vocab",
) -> tuple[int, int]:
    """Checks what all marginalization ops take, logits or hidden states, and returns (rows, vocab or hidden)."""
    if indptr is None:
        check_tensor(op, argument, branch_logits, [("rows", None), ("branches", None), (width, None)], LOGIT_DTYPES)
        rows, branches, vocab = branch_logits.shape
        shape = [("rows", rows), ("branches", branches)]
        check_tensor(op, "branch_log_probs", branch_log_probs, shape, [torch.float32], branch_logits)
        return rows, vocab
    check_tensor(op, argument, branch_logits, [("m", None), (width, None)], LOGIT_DTYPES)
    branches, vocab = branch_logits.shape
    check_tensor(op, "branch_log_probs", branch_log_probs, [("m", branches)], [torch.float32], branch_logits)
    check_tensor(op, "indptr", indptr, [("rows + 1", None)], [torch.int64], branch_logits)
    if indptr.shape[0] == 0:
        raise ValueError(f"{op}: indptr must be [rows + 1], got [0]: even no rows need a 0")
    if has_values(indptr):
        _check_indptr(op, indptr.tolist(), branches)
    return indptr.shape[0] - 1, vocab


def _check_indptr(op: str, indptr: list[int], branches: int) -> None:
    if indptr[0] != 0:
        raise ValueError(f"{op}: indptr must start at 0, got indptr[0]={indptr[0]}")
    for i, (begin, end) in enumerate(itertools.pairwise(indptr)):
        if end < begin:
            raise ValueError(f"{op}: indptr must ascend, got indptr[{i}]={begin} before indptr[{i + 1}]={end}")
    if indptr[-1] != branches:
        raise ValueError(
            f"{op}: indptr must end at the number of branches, {branches}, got indptr[{len(indptr) - 1}]={indptr[-1]}"
        )
