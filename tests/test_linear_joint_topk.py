"""linear_joint_topk: a chunk of branches at a time gives what all of their logits at once give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_top
from linear_cases import LinearCase, linear_case, linear_cases

from mtp_ext import joint_topk
from mtp_ext.linear_joint_topk import linear_joint_topk
from mtp_ext.marginalize import TopPairs
from mtp_ext.reference.linear_marginalize import branch_logits


def one_row(case: LinearCase) -> LinearCase:
    """All branches of the case as those of one request."""
    return LinearCase(
        case.hidden.flatten(0, -2), case.unembedding, case.log_probs.flatten(), None, case.bias, case.softcap
    )


def run(case: LinearCase, k: int, workspace_bytes: int, device: str = "cpu") -> TopPairs:
    """The result on `device`, brought back to the CPU."""
    case = case.map(lambda x: x.to(device))
    options = {"bias": case.bias, "softcap": case.softcap, "workspace_bytes": workspace_bytes}
    found = linear_joint_topk(case.hidden, case.unembedding, case.log_probs, k=k, **options)
    return TopPairs(*[x.cpu() for x in found])


def pairs(case: LinearCase, dtype: torch.dtype) -> torch.Tensor:
    """[1, branches * vocab]; NaN in all where a branch is broken."""
    logits = branch_logits(case.hidden, case.unembedding, case.bias, case.softcap).to(dtype)
    weights = case.log_probs.to(dtype)
    weights = weights.masked_fill(weights == torch.inf, torch.nan)[:, None]
    found = torch.where(weights == -torch.inf, -torch.inf, weights + logits.log_softmax(-1)).view(1, -1)
    return found.fill_(torch.nan) if found.isnan().any() else found


@given(linear_cases(), st.sampled_from([1, 3, 40]), st.sampled_from([1, 5000, 1 << 20]))
def test_equals_the_definition(device: str, case: LinearCase, k: int, workspace_bytes: int) -> None:
    case = one_row(case).map(lambda x: x.float() if x.is_floating_point() else x)
    actual = run(case, k, workspace_bytes, device)
    flat = torch.where(actual.tokens >= 0, actual.branches * case.vocab + actual.tokens, -1)
    oracle = pairs(case.map(lambda x: x.double()), torch.float64)
    assert_top(actual.log_probs[None], flat[None], pairs(case, torch.float32), oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("workspace_bytes", [1, 20_000, 1 << 30])
def test_ties_are_those_of_joint_topk(device: str, dtype: torch.dtype, workspace_bytes: int) -> None:
    """All branches are the same here, and three tokens in four: ties within a chunk, and between chunks."""
    hidden = torch.ones(23, 8, dtype=dtype, device=device)
    unembedding = (torch.arange(301, device=device) % 4 == 1).to(dtype)[:, None].expand(-1, 8).contiguous()
    weights = torch.full((23,), -2.0, device=device)
    actual = linear_joint_topk(hidden, unembedding, weights, k=3000, workspace_bytes=workspace_bytes)
    expected = joint_topk((hidden @ unembedding.T)[None], weights[None], k=3000)
    assert torch.equal(actual.branches, expected.branches[0])
    assert torch.equal(actual.tokens, expected.tokens[0])


def test_no_branches_and_more_pairs_than_there_are(device: str) -> None:
    case = one_row(linear_case([2], 4, 3)).map(lambda x: x.to(device))
    found = run(case, 8, 1, device)
    assert (found.tokens >= 0).tolist() == [True] * 6 + [False] * 2
    assert found.log_probs[6:].tolist() == [-torch.inf] * 2
    none = linear_joint_topk(case.hidden[:0], case.unembedding, case.log_probs[:0], k=2)
    assert none.branches.tolist() == none.tokens.tolist() == [-1, -1]


def test_k_out_of_range() -> None:
    case = one_row(linear_case([2], 4, 3))
    with pytest.raises(ValueError, match=r"^linear_joint_topk: k must be from 1 to 1048576, got 0$"):
        run(case, 0, 1)


def test_a_transposed_unembedding() -> None:
    case = one_row(linear_case([2], 4, 3))
    unembedding = case.unembedding.T.contiguous().T
    with pytest.raises(
        ValueError, match=r"^linear_joint_topk: unembedding must be contiguous in its last dimension, got"
    ):
        linear_joint_topk(case.hidden, unembedding, case.log_probs, k=2)
