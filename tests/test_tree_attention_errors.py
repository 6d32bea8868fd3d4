"""Every refusal of the ops on a cache, word for word: from the public function, and from the op itself."""

from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import assert_same_bits, has_kernel
from mtp_ext.testing_trees import ancestors_of, random_parents

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


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_right_is_taken(op: str) -> None:
    getattr(mtp_ext, op)(**RIGHT[op])
    getattr(torch.ops.mtp_ext, op)(*RIGHT[op].values())
    if op in CACHE_OPS:
        getattr(mtp_ext, op)(**inputs_of(op, PAGED))


# ---- The cache and the lengths ----------------------------------------------------------------------------


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


# ---- tree_attention ---------------------------------------------------------------------------------------


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


# ---- append_ and merge_states -----------------------------------------------------------------------------


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


# ---- Of all -----------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", ["key", "value", "new_key", "new_value"])
def test_what_works_in_place_says_so_at_once(name: str) -> None:
    inputs = inputs_of("append_", {name: RIGHT["append_"][name].clone().requires_grad_()})
    check_public("append_", inputs, RuntimeError, "has no gradient; call it under torch.no_grad() or detach its inputs")
    with torch.no_grad():
        mtp_ext.append_(**inputs)
