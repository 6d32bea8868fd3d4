"""The ops on a cache as torch sees them: schemas, fakes, mutation, and whole programs under torch.compile."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import TreeCase, random_parents, tree_case

OPTIONS = {"starts": torch.tensor([1, 0]), "window": 5, "softcap": 20.0, "sinks": torch.zeros(4), "scale": 0.2}
TREES = [random_parents(7, 3), random_parents(4, 1)]


def finite(case: TreeCase) -> TreeCase:
    """Without NaN, which no check of torch's own takes to be equal to itself."""
    return case.map(lambda tensor: tensor.nan_to_num() if tensor.is_floating_point() else tensor)


CASES = {
    "plain": finite(tree_case([TREES[0]] * 2, [9, 0])),
    "options": finite(tree_case(TREES, [9, 3], dtype=torch.bfloat16, value_dim=17, **OPTIONS)),
    "paged": finite(tree_case(TREES, [9, 3], **OPTIONS).paged(4)),
    "chain": finite(tree_case(TREES, [9, 3], dtype=torch.float16).changed(ancestors=None)),
    "strided": finite(tree_case(TREES, [9, 3])).strided(),
    "empty": finite(tree_case([[], []], [9, 3])),
}
OPS = ["tree_attention", "merge_states", "append_"]


def arguments(op: str, case: TreeCase, device: str) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order."""
    case = case.map(lambda tensor: tensor.to(device))
    defaults = dict.fromkeys(["node_counts", "starts", "page_table", "scale", "softcap", "window", "sinks"])
    options = defaults | {"softcap": 0.0} | case.options
    if op == "tree_attention":
        return case.query, case.key, case.value, case.ancestors, case.prefix_lengths, *options.values()
    if op == "merge_states":
        out, lse = (part.to(device) for part in case.run(device))
        return out, lse, -out, lse - 1.0
    batch, nodes = case.query.shape[:2]
    new = [torch.ones(batch, nodes, *x.shape[2:], dtype=x.dtype, device=device) for x in (case.key, case.value)]
    return case.key, case.value, *new, case.prefix_lengths, options["page_table"], options["node_counts"]


def overload(op: str) -> Any:
    return getattr(torch.ops.mtp_ext, op).default


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck(device: str, op: str, case: TreeCase) -> None:
    torch.library.opcheck(overload(op), arguments(op, case, device))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fakes_have_the_shape_of_the_result(device: str, op: str, case: TreeCase) -> None:
    inputs = arguments(op, case, device)
    actual = overload(op)(*inputs)
    with FakeTensorMode() as mode:
        fake = overload(op)(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs])
    if op == "append_":
        assert actual is fake is None
        return
    for one, other in zip(actual, fake, strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        assert one.is_contiguous()
        assert other.is_contiguous()


def step(query: Tensor, key: Tensor, value: Tensor, new: Tensor, lengths: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """A layer's attention as a model has it, the tree's own nodes and the prefix once more apart, and what is left in
    the cache, with something of torch's own before, between and after."""
    page_table = options.get("page_table")
    mtp_ext.append_(key, value, new + 1.0, new * 2.0, lengths, page_table=page_table)
    out, lse = mtp_ext.tree_attention(query * 0.5, key, value, None, lengths, return_lse=True, **options)
    merged = mtp_ext.merge_states(out, lse, out + 1.0, lse - 1.0)
    mtp_ext.append_(key, value, new, new, lengths, page_table=page_table)
    return (
        out + 0.0,
        *merged,
        mtp_ext.tree_attention(query, key, value, None, lengths, **options),
        key.sum(),
        value * 2.0,
    )


def run_step(function: Callable[..., Any], batch: int, nodes: int, device: str, paged: bool) -> tuple[Tensor, ...]:
    """The results of a step on a cache of its own, and the cache."""
    case = finite(tree_case([random_parents(nodes, 1)] * batch, list(range(batch)))).changed(window=3)
    case = (case.paged(4) if paged else case).map(lambda tensor: tensor.to(device))
    key, value = case.key.nan_to_num(), case.value.nan_to_num()
    new = torch.randn(batch, nodes, *key.shape[2:], generator=torch.Generator().manual_seed(0)).to(device)
    results = function(case.query, key, value, new, case.prefix_lengths, **case.options)
    return *results, key, value


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(device: str, dynamic: bool, paged: bool) -> None:
    """The cache is changed in place inside the graph and outside it."""
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch, nodes in [(2, 5), (3, 7)] if dynamic else [(2, 5)]:
        expected = run_step(step, batch, nodes, device, paged)
        assert_same_bits(run_step(compiled, batch, nodes, device, paged), expected)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's default compiler needs a C++ compiler")
def test_compiles_with_the_default_back_end(device: str) -> None:
    """Which may sum in another order than torch does, but calls the same kernels on the same numbers."""
    expected = run_step(step, 2, 5, device, False)
    actual = run_step(torch.compile(step, fullgraph=True), 2, 5, device, False)
    assert_same_bits(actual[:4] + actual[5:], expected[:4] + expected[5:])


def tree_step(tree: Tensor, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
    return mtp_ext.tree_attention(query, key, value, tree, lengths)


def test_trees_of_any_size_compile_once(device: str) -> None:
    compiled = torch.compile(tree_step, fullgraph=True, dynamic=True, backend="aot_eager")
    for nodes, prefix in [(5, 9), (70, 3), (130, 40)]:
        case = tree_case([random_parents(nodes, 3)] * 2, [prefix] * 2).map(lambda tensor: tensor.to(device))
        inputs = case.ancestors, case.query, case.key, case.value, case.prefix_lengths
        assert_same_bits(compiled(*inputs), tree_step(*inputs))


def test_mistakes_are_reported_while_compiling(device: str) -> None:
    compiled = torch.compile(tree_step, fullgraph=True, dynamic=False, backend="aot_eager")
    case = tree_case([random_parents(5, 3)], [9], heads=3, kv_heads=2).map(lambda tensor: tensor.to(device))
    with pytest.raises(Exception, match="tree_attention: heads must be a multiple of kv_heads, got 3 and 2"):
        compiled(case.ancestors, case.query, case.key, case.value, case.prefix_lengths)


def test_a_compiled_program_refuses_lengths_out_of_range() -> None:
    """Values are not known to a trace, but on a CPU they are when the program runs."""
    compiled = torch.compile(tree_step, fullgraph=True, backend="aot_eager")
    case = tree_case([random_parents(5, 3)], [9])
    inputs = case.ancestors, case.query, case.key, case.value
    compiled(*inputs, case.prefix_lengths)
    with pytest.raises((RuntimeError, ValueError), match=r"got capacity 17 for prefix_lengths\[0\]=13 and 5 nodes"):
        compiled(*inputs, case.prefix_lengths + 4)


def test_functions_under_inference_mode(device: str) -> None:
    expected = run_step(step, 2, 5, device, False)
    with torch.inference_mode():
        assert_same_bits(run_step(step, 2, 5, device, False), expected)


def test_meta_tensors_give_shapes(device: str) -> None:
    case = CASES["plain"].map(lambda tensor: tensor.to("meta"))
    inputs = (case.query, case.key, case.value, case.ancestors, case.prefix_lengths)
    out, lse = mtp_ext.tree_attention(*inputs, return_lse=True)
    assert (out.device.type, out.shape, lse.shape) == ("meta", case.query.shape, case.query.shape[:-1])
