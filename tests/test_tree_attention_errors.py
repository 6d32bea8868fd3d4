"""Every refusal of tree_attention and merge_states, word for word, and what all ops on a cache refuse."""

from typing import Any

import pytest
import torch
from cache_refusals import (
    ANY_FLOAT,
    BITS_BEYOND,
    CACHE_OPS,
    CALL,
    CONTIGUOUS,
    LENGTHS,
    PAGED,
    PAGES,
    RIGHT,
    SIZES,
    check,
    check_public,
    inputs_of,
    uneven,
)

import mtp_ext
from mtp_ext.testing_trees import ancestors_of, random_parents


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"query": torch.zeros(2, 4, 16)},
            ValueError,
            f"query must be [batch, nodes, heads, head_dim] {ANY_FLOAT}, got [2, 4, 16] float32 on cpu",
        ),
        (
            {"query": torch.zeros(2, 3, 4, 16).double()},
            TypeError,
            f"query must be [batch, nodes, heads, head_dim] {ANY_FLOAT}, got [2, 3, 4, 16] float64 on cpu",
        ),
        ({"query": uneven(2, 3, 4, 16)}, ValueError, f"query {CONTIGUOUS}, got stride 2; {CALL}"),
        ({"query": torch.zeros(2, 3, 4, 32)}, ValueError, "key must have the query's head_dim=32, got 16"),
        (
            {"query": torch.zeros(2, 3, 4, 15), "key": torch.zeros(2, 10, 2, 15)},
            ValueError,
            "head_dim must be from 16 to 256, got 15",
        ),
        (
            {"query": torch.zeros(2, 3, 4, 257), "key": torch.zeros(2, 10, 2, 257)},
            ValueError,
            "head_dim must be from 16 to 256, got 257",
        ),
        ({"value": torch.zeros(2, 10, 2, 0)}, ValueError, "value_dim must be from 16 to 256, got 0"),
        ({"value": torch.zeros(2, 10, 2, 512)}, ValueError, "value_dim must be from 16 to 256, got 512"),
        (
            {"query": torch.zeros(2, 3, 5, 16)},
            ValueError,
            "heads must be a multiple of kv_heads, got 5 and 2",
        ),
        ({"query": torch.zeros(2, 3, 1, 16)}, ValueError, "heads must be a multiple of kv_heads, got 1 and 2"),
        (
            {"key": torch.zeros(2, 10, 0, 16), "value": torch.zeros(2, 10, 0, 32)},
            ValueError,
            "heads must be a multiple of kv_heads, got 4 and 0",
        ),
        (
            {"ancestors": torch.ones(2, 3, dtype=torch.int64)},
            ValueError,
            f"ancestors must be [batch=2, nodes=3, words=1] {SIZES}, got [2, 3] int64 on cpu",
        ),
        (
            {"ancestors": torch.ones(2, 3, 2, dtype=torch.int64)},
            ValueError,
            f"ancestors must be [batch=2, nodes=3, words=1] {SIZES}, got [2, 3, 2] int64 on cpu",
        ),
        (
            {"ancestors": torch.ones(2, 4, 1, dtype=torch.int64)},
            ValueError,
            f"ancestors must be [batch=2, nodes=3, words=1] {SIZES}, got [2, 4, 1] int64 on cpu",
        ),
        (
            {"ancestors": torch.ones(2, 3, 1, dtype=torch.bool)},
            TypeError,
            f"ancestors must be [batch=2, nodes=3, words=1] {SIZES}, got [2, 3, 1] bool on cpu",
        ),
        (
            {"ancestors": torch.tensor([[[1], [3], [7]], [[1], [8], [15]]])},
            ValueError,
            f"{BITS_BEYOND} ancestors[1, 1]",
        ),
        ({"ancestors": torch.tensor([[[1], [3], [-1]]] * 2)}, ValueError, f"{BITS_BEYOND} ancestors[0, 2]"),
        (
            {"starts": torch.tensor([0, -1])},
            ValueError,
            "starts must be at least 0, got starts[1]=-1",
        ),
        ({"starts": torch.zeros(2)}, TypeError, f"starts must be [batch=2] {SIZES}, got [2] float32 on cpu"),
        ({"starts": LENGTHS[:1]}, ValueError, f"starts must be [batch=2] {SIZES}, got [1] int64 on cpu"),
        ({"softcap": -1.5}, ValueError, "softcap must be at least 0, got -1.5"),
        ({"softcap": -torch.inf}, ValueError, "softcap must be at least 0, got -inf"),
        ({"softcap": torch.nan}, ValueError, "softcap must be at least 0, got nan"),
        ({"window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"window": -3}, ValueError, "window must be at least 1, got -3"),
        ({"sinks": torch.zeros(2)}, ValueError, "sinks must be [heads=4] float32 on cpu, got [2] float32 on cpu"),
        (
            {"sinks": torch.zeros(4).bfloat16()},
            TypeError,
            "sinks must be [heads=4] float32 on cpu, got [4] bfloat16 on cpu",
        ),
        ({"sinks": uneven(4)}, ValueError, f"sinks {CONTIGUOUS}, got stride 2; {CALL}"),
    ],
)
def test_tree_attention(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("tree_attention", changes, error, sentence)


@pytest.mark.parametrize("nodes", [63, 65, 127])
def test_bits_beyond_the_nodes_in_the_last_word(nodes: int) -> None:
    """The last bit of the last word; a whole word has none beyond."""
    ancestors = ancestors_of([random_parents(nodes, 3)])
    changes = {
        "query": torch.zeros(1, nodes, 4, 16),
        "key": torch.zeros(1, 200, 2, 16),
        "value": torch.zeros(1, 200, 2, 32),
        "prefix_lengths": LENGTHS[:1],
        "ancestors": ancestors,
    }
    mtp_ext.tree_attention(**inputs_of("tree_attention", changes))
    ancestors[0, nodes - 1, -1] |= -(2**63)
    sentence = f"ancestors must have no bits beyond the {nodes} nodes, got some in ancestors[0, {nodes - 1}]"
    check("tree_attention", changes, ValueError, sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scale": "0.5"}, "scale must be a number, got str"),
        ({"scale": [0.5]}, "scale must be a number, got list"),
        ({"softcap": None}, "softcap must be a number, got NoneType"),
        ({"softcap": "50"}, "softcap must be a number, got str"),
        ({"window": 2.0}, "window must be an integer, got float"),
        ({"window": "3"}, "window must be an integer, got str"),
        ({"window": [3]}, "window must be an integer, got list"),
    ],
)
def test_other_types(changes: dict[str, Any], sentence: str) -> None:
    check_public("tree_attention", changes, TypeError, sentence)


# ---- merge_states -----------------------------------------------------------------------------------------


OUT, LSE = "[batch=2, nodes=3, heads=4, value_dim=16]", "[batch=2, nodes=3, heads=4]"


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"out_a": torch.zeros(2, 3, 16)},
            ValueError,
            f"out_a must be [batch, nodes, heads, value_dim] {ANY_FLOAT}, got [2, 3, 16] float32 on cpu",
        ),
        (
            {"out_a": torch.zeros(2, 3, 4, 16).double()},
            TypeError,
            f"out_a must be [batch, nodes, heads, value_dim] {ANY_FLOAT}, got [2, 3, 4, 16] float64 on cpu",
        ),
        ({"out_a": uneven(2, 3, 4, 16)}, ValueError, f"out_a {CONTIGUOUS}, got stride 2; {CALL}"),
        (
            {"out_b": torch.zeros(2, 3, 4, 32)},
            ValueError,
            f"out_b must be {OUT} float32 on cpu, got [2, 3, 4, 32] float32 on cpu",
        ),
        (
            {"out_b": torch.zeros(2, 3, 4, 16).half()},
            TypeError,
            f"out_b must be {OUT} float32 on cpu, got [2, 3, 4, 16] float16 on cpu",
        ),
        (
            {"lse_a": torch.zeros(2, 3, 4, 1)},
            ValueError,
            f"lse_a must be {LSE} float32 on cpu, got [2, 3, 4, 1] float32 on cpu",
        ),
        (
            {"lse_b": torch.zeros(2, 3, 4).bfloat16()},
            TypeError,
            f"lse_b must be {LSE} float32 on cpu, got [2, 3, 4] bfloat16 on cpu",
        ),
        (
            {"lse_b": torch.zeros(1, 3, 4)},
            ValueError,
            f"lse_b must be {LSE} float32 on cpu, got [1, 3, 4] float32 on cpu",
        ),
        ({"lse_b": uneven(2, 3, 4)}, ValueError, f"lse_b {CONTIGUOUS}, got stride 2; {CALL}"),
    ],
)
def test_merge_states(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("merge_states", changes, error, sentence)


# ---- All ops on a cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_right_is_taken(op: str) -> None:
    getattr(mtp_ext, op)(**RIGHT[op])
    getattr(torch.ops.mtp_ext, op)(*RIGHT[op].values())
    if op in CACHE_OPS:
        getattr(mtp_ext, op)(**inputs_of(op, PAGED))


OPTIONAL = {"node_counts": LENGTHS - 5, "starts": LENGTHS, "page_table": PAGES, "sinks": torch.zeros(4)}


def tensors_of(op: str) -> list[tuple[str, str]]:
    return [(op, name) for name, x in RIGHT[op].items() if isinstance(x, torch.Tensor) or name in OPTIONAL]


@pytest.mark.parametrize(("op", "name"), [pair for op in RIGHT for pair in tensors_of(op)])
def test_what_is_no_tensor(op: str, name: str) -> None:
    changes = (PAGED if name == "page_table" else {}) | {name: [0, 1]}
    check_public(op, changes, TypeError, f"{name} must be a Tensor, got list")


@pytest.mark.parametrize(("op", "name"), [pair for op in RIGHT for pair in tensors_of(op)[1:]])
def test_devices(op: str, name: str) -> None:
    """The second argument and the later ones, against the first that is checked."""
    changes: dict[str, Any] = dict(PAGED) if name == "page_table" else {}
    right = inputs_of(op, changes)[name]
    changes[name] = (OPTIONAL[name] if right is None else right).to("meta")
    with pytest.raises(ValueError, match="on meta") as caught:
        getattr(mtp_ext, op)(**inputs_of(op, changes))
    assert str(caught.value).startswith(f"{op}: {'key' if name == 'new_key' else name} must be [")


@pytest.mark.parametrize("op", ["tree_attention", "merge_states"])
def test_what_has_no_gradient_says_so(op: str) -> None:
    """Instead of a gradient of zero."""
    first = next(iter(RIGHT[op]))
    result = getattr(mtp_ext, op)(**RIGHT[op] | {first: RIGHT[op][first].clone().requires_grad_()})
    out = result if op == "tree_attention" else result[0]
    with pytest.raises(RuntimeError) as caught:
        out.sum().backward()
    assert str(caught.value) == f"{op}: has no gradient; call it under torch.no_grad() or detach its inputs"
