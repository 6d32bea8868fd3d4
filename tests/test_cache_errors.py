"""Every refusal of what a cache and its lengths may be, and of append_, word for word."""

from typing import Any

import pytest
import torch
from cache_refusals import (
    ANY_FLOAT,
    CACHE_OPS,
    CALL,
    CONTIGUOUS,
    LENGTHS,
    PAGED,
    PAGES,
    RIGHT,
    SIZES,
    TOO_LONG,
    check,
    check_public,
    inputs_of,
    uneven,
)

import mtp_ext
from mtp_ext.testing import assert_same_bits


@pytest.mark.parametrize("op", CACHE_OPS)
@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"key": torch.zeros(2, 10, 16)},
            ValueError,
            "key must be [batch=2, capacity, kv_heads, head_dim] float32 on cpu, got [2, 10, 16] float32 on cpu",
        ),
        (
            {"key": torch.zeros(3, 10, 2, 16)},
            ValueError,
            "key must be [batch=2, capacity, kv_heads, head_dim] float32 on cpu, got [3, 10, 2, 16] float32 on cpu",
        ),
        (
            {"key": torch.zeros(2, 10, 2, 16).bfloat16()},
            TypeError,
            "key must be [batch=2, capacity, kv_heads, head_dim] float32 on cpu, got [2, 10, 2, 16] bfloat16 on cpu",
        ),
        ({"key": uneven(2, 10, 2, 16)}, ValueError, f"key {CONTIGUOUS}, got stride 2; {CALL}"),
        (
            {"value": torch.zeros(2, 9, 2, 32)},
            ValueError,
            "value must be [batch=2, capacity=10, kv_heads=2, value_dim] float32 on cpu, "
            "got [2, 9, 2, 32] float32 on cpu",
        ),
        (
            {"value": torch.zeros(2, 10, 1, 32)},
            ValueError,
            "value must be [batch=2, capacity=10, kv_heads=2, value_dim] float32 on cpu, "
            "got [2, 10, 1, 32] float32 on cpu",
        ),
        (
            {"value": torch.zeros(2, 10, 2, 32).half()},
            TypeError,
            "value must be [batch=2, capacity=10, kv_heads=2, value_dim] float32 on cpu, "
            "got [2, 10, 2, 32] float16 on cpu",
        ),
        ({"value": uneven(2, 10, 2, 32)}, ValueError, f"value {CONTIGUOUS}, got stride 2; {CALL}"),
        (
            PAGED | {"key": torch.zeros(4, 2, 16)},
            ValueError,
            "key must be [pages, page_size, kv_heads, head_dim] float32 on cpu, got [4, 2, 16] float32 on cpu",
        ),
        (
            PAGED | {"value": torch.zeros(5, 3, 2, 32)},
            ValueError,
            "value must be [pages=5, page_size=4, kv_heads=2, value_dim] float32 on cpu, "
            "got [5, 3, 2, 32] float32 on cpu",
        ),
        (
            PAGED | {"page_table": PAGES[0]},
            ValueError,
            f"page_table must be [batch=2, pages] {SIZES}, got [3] int64 on cpu",
        ),
        (
            PAGED | {"page_table": PAGES[:1]},
            ValueError,
            f"page_table must be [batch=2, pages] {SIZES}, got [1, 3] int64 on cpu",
        ),
        (
            PAGED | {"page_table": PAGES.int()},
            TypeError,
            f"page_table must be [batch=2, pages] {SIZES}, got [2, 3] int32 on cpu",
        ),
        (
            PAGED | {"page_table": PAGES.t().contiguous().t()},
            ValueError,
            f"page_table {CONTIGUOUS}, got stride 2; {CALL}",
        ),
        (
            PAGED | {"page_table": torch.tensor([[0, 1, 2], [3, 5, 1]])},
            ValueError,
            "page_table must be from 0 to 4, got page_table[1, 1]=5",
        ),
        (
            PAGED | {"page_table": torch.tensor([[0, 1, 2], [3, 4, -1]])},
            ValueError,
            "page_table must be from 0 to 4, got page_table[1, 2]=-1",
        ),
        (
            PAGED | {"page_table": PAGES + 2**40},
            ValueError,
            f"page_table must be from 0 to 4, got page_table[0, 0]={2**40 + 4}",
        ),
        (
            {"prefix_lengths": LENGTHS.int()},
            TypeError,
            f"prefix_lengths must be [batch=2] {SIZES}, got [2] int32 on cpu",
        ),
        (
            {"prefix_lengths": LENGTHS[:1]},
            ValueError,
            f"prefix_lengths must be [batch=2] {SIZES}, got [1] int64 on cpu",
        ),
        (
            {"prefix_lengths": LENGTHS[:, None]},
            ValueError,
            f"prefix_lengths must be [batch=2] {SIZES}, got [2, 1] int64 on cpu",
        ),
        ({"prefix_lengths": LENGTHS[:1].expand(2)}, ValueError, f"prefix_lengths {CONTIGUOUS}, got stride 0; {CALL}"),
        (
            {"prefix_lengths": torch.tensor([5, -1])},
            ValueError,
            "prefix_lengths must be at least 0, got prefix_lengths[1]=-1",
        ),
        ({"prefix_lengths": torch.tensor([5, 8])}, ValueError, f"{TOO_LONG} 10 for prefix_lengths[1]=8 and 3 nodes"),
        (
            {"prefix_lengths": torch.tensor([2**63 - 1, 0])},
            ValueError,
            f"{TOO_LONG} 10 for prefix_lengths[0]={2**63 - 1} and 3 nodes",
        ),
        (
            {"prefix_lengths": torch.tensor([5, 10]), "node_counts": torch.tensor([3, 1])},
            ValueError,
            f"{TOO_LONG} 10 for prefix_lengths[1]=10 and 1 nodes",
        ),
        (
            PAGED | {"prefix_lengths": torch.tensor([5, 10])},
            ValueError,
            f"{TOO_LONG} 12 for prefix_lengths[1]=10 and 3 nodes",
        ),
        (
            PAGED | {"page_table": PAGES[:, :0]},
            ValueError,
            f"{TOO_LONG} 0 for prefix_lengths[0]=5 and 3 nodes",
        ),
        (
            {"node_counts": torch.tensor([3, 4])},
            ValueError,
            "node_counts must be from 0 to 3, got node_counts[1]=4",
        ),
        (
            {"node_counts": torch.tensor([-1, 3])},
            ValueError,
            "node_counts must be from 0 to 3, got node_counts[0]=-1",
        ),
        (
            {"node_counts": torch.tensor([3.0, 3.0])},
            TypeError,
            f"node_counts must be [batch=2] {SIZES}, got [2] float32 on cpu",
        ),
        (
            {"node_counts": torch.tensor([3])},
            ValueError,
            f"node_counts must be [batch=2] {SIZES}, got [1] int64 on cpu",
        ),
        (
            {"node_counts": torch.tensor(3).expand(2)},
            ValueError,
            f"node_counts {CONTIGUOUS}, got stride 0; {CALL}",
        ),
    ],
)
def test_cache(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check(op, changes, error, sentence)


# ---- append_ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"new_key": torch.zeros(3, 2, 16)},
            ValueError,
            f"new_key must be [batch, nodes, kv_heads, head_dim] {ANY_FLOAT}, got [3, 2, 16] float32 on cpu",
        ),
        (
            {"new_key": torch.zeros(2, 3, 2, 16).double()},
            TypeError,
            f"new_key must be [batch, nodes, kv_heads, head_dim] {ANY_FLOAT}, got [2, 3, 2, 16] float64 on cpu",
        ),
        ({"new_key": uneven(2, 3, 2, 16)}, ValueError, f"new_key {CONTIGUOUS}, got stride 2; {CALL}"),
        (
            {"new_key": torch.zeros(2, 3, 4, 16)},
            ValueError,
            "new_key must have the cache's kv_heads=2 and head_dim=16, got 4 and 16",
        ),
        (
            {"new_key": torch.zeros(2, 3, 2, 32)},
            ValueError,
            "new_key must have the cache's kv_heads=2 and head_dim=16, got 2 and 32",
        ),
        (
            {"new_value": torch.zeros(2, 3, 2, 16)},
            ValueError,
            "new_value must be [batch=2, nodes=3, kv_heads=2, value_dim=32] float32 on cpu, "
            "got [2, 3, 2, 16] float32 on cpu",
        ),
        (
            {"new_value": torch.zeros(2, 4, 2, 32)},
            ValueError,
            "new_value must be [batch=2, nodes=3, kv_heads=2, value_dim=32] float32 on cpu, "
            "got [2, 4, 2, 32] float32 on cpu",
        ),
        (
            {"new_value": torch.zeros(2, 3, 2, 32).half()},
            TypeError,
            "new_value must be [batch=2, nodes=3, kv_heads=2, value_dim=32] float32 on cpu, "
            "got [2, 3, 2, 32] float16 on cpu",
        ),
        ({"new_value": uneven(2, 3, 2, 32)}, ValueError, f"new_value {CONTIGUOUS}, got stride 2; {CALL}"),
    ],
)
def test_append(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("append_", changes, error, sentence)


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix_lengths": torch.tensor([5, 8])},
        {"prefix_lengths": torch.tensor([5, -1])},
        {"node_counts": torch.tensor([3, 4])},
        PAGED | {"page_table": torch.tensor([[4, 0, 1], [2, 3, 5]])},
    ],
)
def test_a_refused_append_writes_nothing(changes: dict[str, Any]) -> None:
    """Not even for the requests before the one that is refused."""
    inputs = inputs_of("append_", changes)
    inputs |= {name: inputs[name].clone() for name in ("key", "value")}
    inputs |= {name: torch.ones_like(inputs[name]) for name in ("new_key", "new_value")}
    with pytest.raises(ValueError, match="append_: "):
        mtp_ext.append_(**inputs)
    assert_same_bits((inputs["key"], inputs["value"]), [torch.zeros_like(inputs[name]) for name in ("key", "value")])


@pytest.mark.parametrize("name", ["key", "value", "new_key", "new_value"])
def test_what_works_in_place_says_so_at_once(name: str) -> None:
    inputs = inputs_of("append_", {name: RIGHT["append_"][name].clone().requires_grad_()})
    check_public("append_", inputs, RuntimeError, "has no gradient; call it under torch.no_grad() or detach its inputs")
    with torch.no_grad():
        mtp_ext.append_(**inputs)
