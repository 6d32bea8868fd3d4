"""Laws of merge_states: attention over two sets of keys, joined, is attention over both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import require_kernel
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.testing import assert_same_bits, assert_within_budget, threads
from mtp_ext.testing_trees import Result, TreeCase, ancestors_of, assert_attends, random_parents, tree_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
States = tuple[Tensor, Tensor, Tensor, Tensor]  # out_a, lse_a, out_b, lse_b


def run(states: States, device: str) -> Result:
    out, lse = mtp_ext.merge_states(*[part.to(device) for part in states])
    return out.cpu(), lse.cpu()


def check(states: States, device: str) -> Result:
    """Fails unless the result equals the oracle within the budget; returns it."""
    actual = run(states, device)
    expected = reference.merge_states(*states)
    oracle = reference.merge_states(*[part.double() for part in states])
    for part, rounded, exact, scale in zip(actual, expected, oracle, (0.0, 1.0), strict=True):
        assert_within_budget(part, rounded, exact, scale)
    return actual


def random_states(
    *shape: int, dtype: torch.dtype = torch.float32, spread: float = 1.0, shift: float = 0.0, seed: int = 0
) -> States:
    """Outputs [batch, nodes, heads, value_dim], and LSEs `spread` nats apart."""
    generator = torch.Generator().manual_seed(seed)
    out_a, out_b = torch.randn(2, *shape, generator=generator).to(dtype)
    lse_a, lse_b = torch.randn(2, *shape[:-1], generator=generator) * spread + shift
    return out_a, lse_a, out_b, lse_b


def restrided(tensor: Tensor) -> Tensor:
    """The same numbers as a slice of something larger, nodes before requests."""
    shape = [size + 2 for size in tensor.shape]
    shape[0], shape[1] = shape[1], shape[0]
    inside = tuple(slice(1, -1) for _ in shape)
    return tensor.new_full(shape, torch.nan)[inside].transpose(0, 1).copy_(tensor)


@given(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4), st.sampled_from([1, 16, 17, 33, 128])),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    st.sampled_from([0.0, 1e4, -1e4]),
    st.booleans(),
    st.integers(0, 99),
)
def test_equals_the_oracle(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, spread: float, shift: float, strided: bool, seed: int
) -> None:
    states = random_states(*shape, dtype=dtype, spread=spread, shift=shift, seed=seed)
    check(tuple(map(restrided, states)) if strided else states, device)


@settings(max_examples=20)
@given(st.data(), st.sampled_from(DTYPES))
def test_two_parts_of_the_keys_are_all_keys(device: str, data: st.DataObject, dtype: torch.dtype) -> None:
    parents = [random_parents(data.draw(st.sampled_from([1, 9, 70])), 3) for _ in range(2)]
    prefixes = data.draw(st.lists(st.sampled_from([1, 2, 70, 300, 1100]), min_size=2, max_size=2))
    cut = [data.draw(st.integers(1, prefix)) for prefix in prefixes]
    softcap = data.draw(st.sampled_from([0.0, 20.0]))
    sinks = data.draw(st.sampled_from([None, torch.tensor([0.0, 3.0, -5.0, 1.0])]))
    case = tree_case(parents, prefixes, dtype=dtype, softcap=softcap, sinks=sinks)
    first, rest = rows_before(case.changed(sinks=None), cut), case.changed(starts=torch.tensor(cut))

    assert_attends(run((*first.run(device), *rest.run(device)), device), case)


def rows_before(case: TreeCase, cut: list[int]) -> TreeCase:
    """All queries over the first rows of the prefix alone: to this cache, the last of these rows is node 0."""
    node_zero = ancestors_of([[-1]]).expand(*case.ancestors.shape[:2], 1)
    words = torch.nn.functional.pad(node_zero, (0, case.ancestors.shape[-1] - 1))
    return case.changed(ancestors=words, prefix_lengths=torch.tensor(cut) - 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_part_changes_nothing(device: str, dtype: torch.dtype) -> None:
    out, lse, _, _ = random_states(2, 3, 4, 16, dtype=dtype, spread=100.0)
    empty = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
    for states in ((out, lse, *empty), (*empty, out, lse)):
        assert_same_bits(run(states, device), (out, lse))
    assert_same_bits(run((*empty, *empty), device), empty)


def test_what_saw_nothing_stays_empty(device: str) -> None:
    """Real results of padding nodes, of either part."""
    case = tree_case([random_parents(5, 2), random_parents(9, 2)], [40, 7])
    result = case.run(device)
    out, lse = check((*result, *result), device)
    assert (out[0, 5:] == 0).all()
    assert (lse[0, 5:] == -torch.inf).all()


def test_parts_in_any_order(device: str) -> None:
    out_a, lse_a, out_b, lse_b = random_states(2, 3, 4, 33)
    states = out_a, lse_a, out_b, lse_b
    oracle = reference.merge_states(*[part.double() for part in states])
    for part, rounded, exact, scale in zip(
        run((out_b, lse_b, out_a, lse_a), device), reference.merge_states(*states), oracle, (0.0, 1.0), strict=True
    ):
        assert_within_budget(part, rounded, exact, scale)


def test_a_part_of_little_weight(device: str) -> None:
    """A thousand nats apart: the other part's bits, and no NaN."""
    out_a, lse_a, out_b, _ = random_states(1, 2, 2, 16)
    for gap in (1e3, 1e30, torch.inf):
        out, lse = run((out_a, lse_a, out_b, lse_a - gap), device)
        assert_same_bits((out, lse), (out_a, lse_a))


@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_nan_stays_in_its_row(device: str, broken: int) -> None:
    states = random_states(2, 3, 4, 16)
    whole = run(states, device)
    states[broken][1, 2, 3] = torch.nan
    out, lse = check(states, device)
    assert out[1, 2, 3].isnan().all()
    assert lse[1, 2, 3].isnan() == (broken % 2 == 1)
    others = torch.ones(2, 3, 4, dtype=torch.bool)
    others[1, 2, 3] = False
    assert_same_bits((out[others], lse[others]), (whole[0][others], whole[1][others]))


@pytest.mark.parametrize("other", [1.0, -torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("infinite", [1, 3])
def test_an_infinite_score_stays_in_its_row(device: str, infinite: int, other: float) -> None:
    """Its softmax is NaN, its LSE is +inf."""
    states = random_states(2, 3, 4, 16)
    whole = run(states, device)
    states[infinite][1, 2, 3], states[4 - infinite][1, 2, 3] = torch.inf, other
    out, lse = check(states, device)
    assert out[1, 2, 3].isnan().all()
    assert_same_bits(lse[1, 2, 3], torch.tensor(torch.nan if other != other else torch.inf))
    others = torch.ones(2, 3, 4, dtype=torch.bool)
    others[1, 2, 3] = False
    assert_same_bits((out[others], lse[others]), (whole[0][others], whole[1][others]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_place_and_strides(device: str, dtype: torch.dtype) -> None:
    require_kernel("merge_states", device)
    states = random_states(5, 300, 4, 64, dtype=dtype)
    with threads(1):
        one = run(states, device)
    with threads(2):
        assert_same_bits(run(states, device), one)
    for b in range(5):
        assert_same_bits(run(tuple(part[b : b + 1] for part in states), device), [part[b : b + 1] for part in one])
    assert_same_bits(run(tuple(map(restrided, states)), device), one)
    expanded = tuple(part[:1].expand(3, *part.shape[1:]) for part in states)
    assert_same_bits(run(expanded, device), [part[:1].expand(3, *part.shape[1:]) for part in one])
