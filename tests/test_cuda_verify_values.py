"""Trees, uniforms, drafts and settings that only the device knows: nothing bad among them is ever accepted, other
requests are what they were, and check() says so."""

from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import random_parents
from mtp_ext.testing_verify import METHODS, SAMPLED, VerifyCase, verify_case
from mtp_ext.verify import Accepted

FAR = [-(2**62), 2**62]
TREE = ("parents must be -1 for node 0, -2 for padding at the end and an earlier node elsewhere", "parents")


@pytest.fixture
def case() -> VerifyCase:
    """Three requests; the middle one is to be spoiled."""
    return verify_case([random_parents(8, 3)] * 3, 517, likeness=1.0)


def sentence() -> str:
    """What check() says; a second call says nothing."""
    with pytest.raises(ValueError, match=":") as caught:
        mtp_ext.check()
    mtp_ext.check()
    return str(caught.value)


def greedy(case: VerifyCase, device: str) -> Accepted:
    tree = mtp_ext.TokenTree(case.tokens.to(device), case.parents.to(device), validate=False)
    return Accepted(*[part.cpu() for part in mtp_ext.verify_greedy(tree, case.logits.to(device))])


def assert_only_the_middle_one_differs(actual: Accepted, right: Accepted) -> None:
    assert_same_bits([part[[0, 2]] for part in actual], [part[[0, 2]] for part in right])


@pytest.mark.parametrize("parent", [4, 7, -1, -3, *FAR])
def test_a_node_whose_parent_does_not_come_before_it(cuda_kernels: str, case: VerifyCase, parent: int) -> None:
    right = greedy(case, cuda_kernels)
    case.parents[1, 4] = parent
    actual = greedy(case, cuda_kernels)
    assert 4 not in actual.nodes[1].tolist()
    assert_only_the_middle_one_differs(actual, right)
    assert sentence() == f"verify_greedy: {TREE[0]}, {TREE[1]}[12] is not"


def test_a_node_after_the_padding(cuda_kernels: str, case: VerifyCase) -> None:
    case.parents[1, 2] = -2
    assert greedy(case, cuda_kernels).nodes[1].max() < 2
    assert sentence().startswith(f"verify_greedy: {TREE[0]}, {TREE[1]}[1")


@pytest.mark.parametrize("root", [0, 3, *FAR])
@pytest.mark.parametrize("method", METHODS)
def test_a_root_that_is_none(cuda_kernels: str, case: VerifyCase, method: str, root: int) -> None:
    case.parents[1, 0] = root
    actual = case.run(method, cuda_kernels)
    assert (actual.lengths[1], actual.next_tokens[1]) == (0, -1)
    assert sentence() == f"verify_sampling: {TREE[0]}, {TREE[1]}[8] is not"


@pytest.mark.parametrize("token", [-1, 517, *FAR])
@pytest.mark.parametrize("method", METHODS)
def test_a_token_beyond_the_vocabulary(cuda_kernels: str, case: VerifyCase, method: str, token: int) -> None:
    right = case.run(method, cuda_kernels)
    case.tokens[1, 1:] = token
    actual = case.run(method, cuda_kernels)
    assert actual.lengths[1] == 1
    assert_only_the_middle_one_differs(actual, right)
    assert sentence().startswith("verify_sampling: tokens must be from 0 to the vocabulary's last token, tokens[")


@pytest.mark.parametrize("uniform", [1.0, -0.5, torch.nan, torch.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_uniform_that_is_none(cuda_kernels: str, case: VerifyCase, method: str, uniform: float) -> None:
    right = case.run(method, cuda_kernels)
    case.uniforms[1, 8] = uniform
    actual = case.run(method, cuda_kernels)
    assert 0 <= actual.next_tokens[1] < 517
    assert_only_the_middle_one_differs(actual, right)
    assert sentence() == "verify_sampling: uniforms must be in [0, 1), uniforms[17] is not"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -1.0, "0 or from 1e-30 to 1e+30"),
        ("temperature", torch.nan, "0 or from 1e-30 to 1e+30"),
        ("top_k", 0, "at least 1"),
        ("top_p", 0.0, "in (0, 1]"),
        ("top_p", torch.nan, "in (0, 1]"),
        ("min_p", 1.5, "in [0, 1]"),
    ],
)
def test_a_setting_out_of_range(cuda_kernels: str, case: VerifyCase, name: str, value: float, expected: str) -> None:
    good: dict[str, Any] = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "min_p": 0.01}
    settings = torch.tensor([good[name]] * 3)
    right = case.run("target_only", cuda_kernels, **{name: settings})
    settings[1] = value
    actual = case.run("target_only", cuda_kernels, **{name: settings})
    assert (actual.lengths[1], actual.next_tokens[1]) == (0, -1)
    assert_only_the_middle_one_differs(actual, right)
    assert sentence() == f"verify_sampling: {name} must be {expected}, {name}[1] is not"


@pytest.mark.parametrize("row", [-1, 24, *FAR])
@pytest.mark.parametrize("method", SAMPLED)
def test_a_draft_row_that_is_none(cuda_kernels: str, case: VerifyCase, method: str, row: int) -> None:
    right = case.run(method, cuda_kernels)
    case.draft_rows[1, 1:] = row
    actual = case.run(method, cuda_kernels)
    assert actual.lengths[1] == 1
    assert_only_the_middle_one_differs(actual, right)
    assert sentence().startswith(
        "verify_sampling: draft_rows must be rows of draft_log_probs and the same for siblings"
    )


@pytest.mark.parametrize("log_prob", [0.01, torch.inf, torch.nan])
@pytest.mark.parametrize("method", SAMPLED)
def test_a_log_probability_above_0(cuda_kernels: str, case: VerifyCase, method: str, log_prob: float) -> None:
    for node in range(1, 8):
        case.draft_log_probs[case.draft_rows[1, node], case.tokens[1, node]] = log_prob
    assert case.run(method, cuda_kernels).lengths[1] == 1
    assert sentence().startswith("verify_sampling: draft_log_probs must not be above 0, that of the token of node ")
