"""What the ops of verification check alike: the tree; and the settings of a request, each number in its range."""

from collections.abc import Callable

import torch
from torch import Tensor

from mtp_ext.ops import checks


def check_tree(op: str, tokens: Tensor, parents: Tensor) -> None:
    """Checks the tensors of a tree, and that every parent comes before its child and padding at the end."""
    checks.check_tensor(op, "tokens", tokens, [("batch", None), ("nodes", None)], [torch.int64])
    shape = list(zip(("batch", "nodes"), tokens.shape, strict=True))
    checks.check_tensor(op, "parents", parents, shape, [torch.int64], tokens)
    if not checks.has_values(parents):
        return
    for b, row in enumerate(parents.tolist()):
        for i, parent in enumerate(row):
            earlier = i > 0 and 0 <= parent < i and row[i - 1] != -2
            if not (earlier or parent == -2 or (i == 0 and parent == -1)):
                raise ValueError(
                    f"{op}: parents must be -1 for node 0, -2 for padding at the end and an earlier node elsewhere, "
                    f"got parents[{b}, {i}]={parent}"
                )


def check_tokens(op: str, tokens: Tensor, parents: Tensor, vocab: int) -> None:
    """Checks that the tokens of all nodes but the padding are in the vocabulary."""
    if not checks.has_values(tokens):
        return
    wrong = (parents != -2) & ((tokens < 0) | (tokens >= vocab))
    if wrong.any():
        b, i = wrong.nonzero()[0].tolist()
        raise ValueError(f"{op}: tokens must be from 0 to {vocab - 1}, got tokens[{b}, {i}]={int(tokens[b, i])}")


_LARGEST = float(torch.tensor(1e30))  # as a float32 number

# What a number or each entry of a tensor [batch] must be: its dtype, a sentence and the test.
SETTINGS: dict[str, tuple[torch.dtype, str, Callable[[float], bool]]] = {
    "temperature": (torch.float32, "0 or from 1e-30 to 1e+30", lambda x: x == 0.0 or 1e-30 <= x <= _LARGEST),
    "top_k": (torch.int64, "at least 1", lambda x: x >= 1),
    "top_p": (torch.float32, "in (0, 1]", lambda x: 0.0 < x <= 1.0),
    "min_p": (torch.float32, "in [0, 1]", lambda x: 0.0 <= x <= 1.0),
}


def check_setting(op: str, name: str, values: Tensor | None, batch: int, like: Tensor) -> None:
    """Checks a setting of each request."""
    if values is None and name != "temperature":
        return
    dtype, expected, fits = SETTINGS[name]
    checks.check_tensor(op, name, values, [("batch", batch)], [dtype], like)
    if values is not None and checks.has_values(values):
        for b, value in enumerate(values.tolist()):
            if not fits(value):
                raise ValueError(f"{op}: {name} must be {expected}, got {name}[{b}]={value:g}")


def of_requests(op: str, name: str, value: float | Tensor | None, batch: int, device: torch.device) -> Tensor | None:
    """A setting as a tensor [batch], from a number for all requests where it is one.

    Raises:
        ValueError, TypeError: a number out of its range, or something else.
    """
    if value is None or isinstance(value, Tensor):
        return value
    dtype, expected, fits = SETTINGS[name]
    checks.check_number(op, name, value)
    if dtype == torch.int64 and not isinstance(value, int):
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}")
    if not fits(value):
        raise ValueError(f"{op}: {name} must be {expected}, got {value:g}")
    return torch.full((batch,), value, dtype=dtype, device=device)
