"""Verification and commit_ as torch sees them: schemas, fakes, mutation, and a whole step under torch.compile."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp_ext
from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import random_parents
from mtp_ext.testing_verify import METHODS, SAMPLED, VerifyCase, verify_case

CASES = {
    "trees": verify_case([random_parents(7, 3), random_parents(4, 1)], 17),
    "bfloat16": verify_case([random_parents(7, 3)] * 2, 17, dtype=torch.bfloat16),
    "strided": verify_case([random_parents(7, 3)] * 2, 17).strided(),
    "empty": verify_case([random_parents(7, 3)], 17).requests([]),
}
OPS = ["verify_greedy", "best_tokens", *METHODS, "commit_"]


def arguments(name: str, case: VerifyCase, device: str) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order; padding's logits without NaN, which is not equal to itself."""
    case = case.map(lambda tensor: tensor.to(device))
    logits = case.logits.nan_to_num()
    batch, nodes = case.tokens.shape
    if name == "verify_greedy":
        return case.tokens, case.parents, logits
    if name == "best_tokens":
        return case.tokens, case.parents, logits.argmax(-1)
    if name == "commit_":
        keys, values = ([torch.randn(batch, nodes + 3, 2, dim, device=device) for _ in range(2)] for dim in (16, 24))
        path = torch.arange(nodes, device=device).repeat(batch, 1)
        path[:, 1:] += path[:, 1:] > 1  # leaves out node 2
        lengths = torch.full((batch,), nodes - 1, device=device)
        return keys, values, torch.arange(batch, device=device), path, lengths, None
    drafts = case.drafts(name)
    settings = [torch.full((batch,), value, device=device) for value in (0.9, 5, 0.8, 0.01)]
    return (
        *(case.tokens, case.parents, logits, case.uniforms, name),
        *(drafts.get("draft_log_probs"), drafts.get("draft_rows"), *settings, 0.1, 0.3),
    )


def overload(name: str) -> Any:
    op = {"best_tokens": "verify_greedy"} | dict.fromkeys(METHODS, "verify_sampling")
    return getattr(torch.ops.mtp_ext, op.get(name, name)).default


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck(device: str, name: str, case: VerifyCase) -> None:
    torch.library.opcheck(overload(name), arguments(name, case, device))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fakes_have_the_shape_of_the_result(device: str, name: str, case: VerifyCase) -> None:
    inputs = arguments(name, case, device)
    actual = overload(name)(*inputs)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def fake_of(x: Any) -> Any:
            if isinstance(x, list):
                return [fake_of(each) for each in x]
            return mode.from_tensor(x) if isinstance(x, Tensor) else x

        fake = overload(name)(*map(fake_of, inputs))
    for one, other in zip(*[[x] if isinstance(x, Tensor) else x for x in (actual, fake)], strict=True):
        assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        assert one.is_contiguous()
        assert other.is_contiguous()


def step(case: VerifyCase, keys: list[Tensor], values: list[Tensor], lengths: Tensor, method: str) -> tuple[Any, ...]:
    """The end of a decoding step, with something of torch's own around it."""
    tree = mtp_ext.TokenTree(case.tokens, case.parents, validate=False)
    greedy = mtp_ext.verify_greedy(tree, case.logits * 2.0)
    sampled = mtp_ext.verify_sampling(
        tree,
        case.logits + 1.0,
        case.uniforms,
        method=method,
        **case.drafts(method),
        temperature=0.9,
        top_k=9,
        top_p=0.9,
    )
    new_lengths = mtp_ext.commit_(keys, values, lengths, sampled)
    return *greedy, *sampled, new_lengths + 1, keys[0] * 2.0, values[-1].sum()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_compiles_without_a_graph_break(device: str, dynamic: bool, method: str) -> None:
    """The cache is changed in place inside the graph."""
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for nodes in (7, 9) if dynamic else (7,):
        case = verify_case([random_parents(nodes, 3)] * 2, 17).map(lambda tensor: tensor.to(device))
        results = []
        for function in (step, compiled):
            generator = torch.Generator().manual_seed(0)
            keys, values = ([torch.randn(2, 20, 2, 16, generator=generator).to(device) for _ in "ab"] for _ in "kv")
            lengths = torch.tensor([4, 9], device=device)
            results.append((*function(case, keys, values, lengths, method), *keys, *values))
        assert_same_bits(results[1], results[0])


def test_mistakes_are_reported_while_compiling(device: str) -> None:
    def program(case: VerifyCase) -> Any:
        tree = mtp_ext.TokenTree(case.tokens, case.parents, validate=False)
        return mtp_ext.verify_sampling(tree, case.logits, case.uniforms, method="typical", top_p=2.0)

    case = verify_case([[-1, 0]], 17).map(lambda tensor: tensor.to(device))
    with pytest.raises(Exception, match=r"verify_sampling: top_p must be in \(0, 1\], got 2"):
        torch.compile(program, fullgraph=True, backend="aot_eager")(case)


@pytest.mark.parametrize("name", ["verify_greedy", *METHODS])
def test_functions_under_inference_mode(device: str, name: str) -> None:
    inputs = arguments(name, CASES["trees"], device)
    expected = overload(name)(*inputs)
    with torch.inference_mode():
        assert_same_bits(overload(name)(*inputs), expected)


@pytest.mark.parametrize("name", ["verify_greedy", *METHODS])
def test_logits_that_require_a_gradient(device: str, name: str) -> None:
    """What is accepted is a choice of integers: nothing flows back."""
    inputs = list(arguments(name, CASES["trees"], device))
    inputs[2] = inputs[2].clone().requires_grad_()
    if name in SAMPLED:
        inputs[5] = inputs[5].clone().requires_grad_()
    assert not any(part.requires_grad for part in overload(name)(*inputs))


def test_meta_tensors_give_shapes() -> None:
    case = CASES["trees"].map(lambda tensor: tensor.to("meta"))
    tree = mtp_ext.TokenTree(case.tokens, case.parents, validate=False)
    result = mtp_ext.verify_sampling(tree, case.logits, case.uniforms, method="target_only", top_p=0.9)
    assert [part.shape for part in result] == [(2, 7), (2,), (2,)]
