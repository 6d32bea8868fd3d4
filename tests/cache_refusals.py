"""What the ops on a cache take, and how a refusal of theirs is checked word for word."""

from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import has_kernel
from mtp_ext.testing_trees import ancestors_of

LENGTHS = torch.tensor([5, 7])
PAGES = torch.tensor([[4, 0, 1], [2, 3, 1]])
# What is right, in the order of the op's arguments.
RIGHT: dict[str, dict[str, Any]] = {
    "tree_attention": {
        "query": torch.zeros(2, 3, 4, 16),
        "key": torch.zeros(2, 10, 2, 16),
        "value": torch.zeros(2, 10, 2, 32),
        "ancestors": ancestors_of([[-1, 0, 0], [-1, 0, 1]]),
        "prefix_lengths": LENGTHS,
        "node_counts": None,
        "starts": None,
        "page_table": None,
        "scale": None,
        "softcap": 0.0,
        "window": None,
        "sinks": None,
    },
    "append_": {
        "key": torch.zeros(2, 10, 2, 16),
        "value": torch.zeros(2, 10, 2, 32),
        "new_key": torch.zeros(2, 3, 2, 16),
        "new_value": torch.zeros(2, 3, 2, 32),
        "prefix_lengths": LENGTHS,
        "page_table": None,
        "node_counts": None,
    },
    "merge_states": {
        "out_a": torch.zeros(2, 3, 4, 16),
        "lse_a": torch.zeros(2, 3, 4),
        "out_b": torch.zeros(2, 3, 4, 16),
        "lse_b": torch.zeros(2, 3, 4),
    },
}
PAGED = {"key": torch.zeros(5, 4, 2, 16), "value": torch.zeros(5, 4, 2, 32), "page_table": PAGES}
CACHE_OPS = ["tree_attention", "append_"]

ANY_FLOAT = "float32, bfloat16 or float16 on cpu"
CONTIGUOUS, CALL = "must be contiguous in its last dimension", "call .contiguous() on it"
SIZES = "int64 on cpu"
BITS_BEYOND = "ancestors must have no bits beyond the 3 nodes, got some in"
TOO_LONG = "the cache must hold prefix and nodes, got capacity"


def inputs_of(op: str, changes: dict[str, Any]) -> dict[str, Any]:
    assert changes.keys() <= RIGHT[op].keys()
    return RIGHT[op] | changes


def check(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    """Fails unless both ways of calling `op` refuse these changes in these very words."""
    check_public(op, changes, error, sentence)
    with pytest.raises(RuntimeError if has_kernel(op, "cpu") else error) as caught:
        getattr(torch.ops.mtp_ext, op)(*inputs_of(op, changes).values())
    assert str(caught.value) == f"{op}: {sentence}"


def check_public(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        getattr(mtp_ext, op)(**inputs_of(op, changes))
    assert str(caught.value) == f"{op}: {sentence}"


def uneven(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Every second element of something larger."""
    return torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
