"""Targets: any Hugging Face model, and a prepared one, take and refuse the same."""

import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from lean_models import lean_model
from torch import Tensor
from tree_models import FAMILIES, assert_is_eager, assert_nodes_are_sequences, prompts, random_tree, tree_model

from mtp_ext import TokenTree
from mtp_ext.decoding import Target, TransformersTarget, prepare
from mtp_ext.decoding.lean_model import LeanModel
from mtp_ext.decoding.target import best_tokens
from mtp_ext.testing import threads

IDS = torch.arange(5, 11)[None].repeat(2, 1)
ROOTS = TokenTree(torch.tensor([[3], [4]]), torch.tensor([[-1], [-1]]))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module", params=["transformers", "prepared"])
def target(request: pytest.FixtureRequest) -> Target:
    """256 tokens, 256 positions, 2 layers."""
    return TransformersTarget(tree_model("llama")) if request.param == "transformers" else prepare(lean_model("llama"))


# ---- What it says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [True, False], ids=["padded left", "padded right"])
def test_any_model(family: str, left: bool, device: str) -> None:
    model = tree_model(family).to(device)
    target = TransformersTarget(model)
    ids, mask = prompts(device, left=left)
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    cache = target.new_cache(3, 20 + 24)
    last = target.prefill(ids, cache, mask)
    assert last.logits().shape == (3, 1, 256)
    assert_is_eager(last.logits()[:, 0], model, sequences, [1, 1, 1])
    tree = random_tree([24, 9, 1], device)
    nodes = target.run_tree(tree, cache)
    assert_nodes_are_sequences(nodes.logits(), model, tree, sequences)
    assert nodes.hidden is None
    assert torch.equal(nodes.best_tokens(), nodes.logits().argmax(-1))
    assert cache.lengths.tolist() == ([20, 20, 20] if left else [20, 13, 7])
    assert model.config._attn_implementation == "eager"


def test_logits_are_float32(device: str) -> None:
    target = TransformersTarget(tree_model("llama", torch.bfloat16).to(device))
    cache = target.new_cache(2, 8)
    assert target.prefill(IDS.to(device), cache).logits().dtype == torch.float32
    assert cache.keys[0].dtype == target.dtype == torch.bfloat16


def test_hidden_states_are_what_the_head_reads() -> None:
    model = lean_model("qwen2")
    prepared = prepare(model)
    passed = prepared.prefill(IDS, prepared.new_cache(2, 8))
    assert passed.hidden is not None
    torch.testing.assert_close(model.lm_head(passed.hidden), passed.logits())


def test_best_tokens_of_logits_that_are_no_numbers(device: str) -> None:
    nan, inf = math.nan, math.inf
    rows = [[1.0, 3.0, 3.0], [nan, 1.0, 2.0], [1.0, inf, 2.0], [-inf, -inf, -inf], [-inf, 0.0, -inf]]
    assert best_tokens(torch.tensor(rows, device=device)).tolist() == [1, -1, -1, -1, 1]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_broken_head_has_no_best_token(number: float) -> None:
    model = lean_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3:5] = torch.eye(2, model.config.hidden_size)[:1] * torch.tensor([[1.0], [-1.0]])
        model.lm_head.weight[3, 0] *= number
        model.lm_head.weight[4, 0] *= number  # of one sign or the other, so that one of the two logits is +inf
    lean = LeanModel(model, None)
    passed = lean.prefill(IDS, lean.new_cache(2, 8))
    assert passed.best_tokens().tolist() == best_tokens(passed.logits()).tolist() == [[-1], [-1]]


# ---- Refusals ---------------------------------------------------------------------------------------------


def mask(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda t, c: t.prefill([1], c), TypeError, "prefill: input_ids must be a Tensor, got list"),
        (
            lambda t, c: t.prefill(IDS[:1], c),
            ValueError,
            "prefill: input_ids must be [batch=2, tokens] int64 on cpu, got [1, 6] int64 on cpu",
        ),
        (
            lambda t, c: t.prefill(IDS[:, :0], c),
            ValueError,
            "prefill: input_ids must hold at least one token, got [2, 0]",
        ),
        (lambda t, c: t.prefill(IDS + 250, c), ValueError, "prefill: input_ids must be from 0 to 255, got 260"),
        (
            lambda t, c: t.prefill(IDS, c, mask([1] * 5)),
            ValueError,
            "prefill: attention_mask must be [batch=2, tokens=6] int64, int32, bool or float32 on cpu, "
            "got [1, 5] int64 on cpu",
        ),
        (
            lambda t, c: t.prefill(IDS, c, mask([1] * 6, [0] * 6)),
            ValueError,
            "prefill: attention_mask must leave a token of each request, got none of request 1",
        ),
        (
            lambda t, c: t.prefill(IDS, c, mask([1] * 6, [1, 1, 0, 1, 1, 1])),
            ValueError,
            "prefill: attention_mask must hide tokens at the ends of a request only, got a gap in attention_mask[1]",
        ),
        (
            lambda t, c: (t.prefill(IDS, c), t.prefill(IDS, c, mask([1] * 6, [0, 1, 1, 1, 1, 1]))),
            ValueError,
            "prefill: attention_mask must not begin with padding behind tokens in the cache",
        ),
        (
            lambda t, c: t.prefill(IDS[:, :1].repeat(1, 257), t.new_cache(2, 300)),
            ValueError,
            "prefill: the model must have a position for each token, got 256 positions and 257 tokens of request 0",
        ),
        (
            lambda t, c: t.prefill(IDS[:, :1].repeat(1, 13), c),
            ValueError,
            "append_: the cache must hold prefix and nodes, got capacity 12 for prefix_lengths[0]=0 and 13 nodes",
        ),
        (lambda t, c: t.run_tree(IDS, c), TypeError, "run_tree: tree must be a TokenTree, got Tensor"),
        (
            lambda t, c: t.run_tree(TokenTree(IDS[:1, :1], mask([-1])), c),
            ValueError,
            "run_tree: tree.tokens must be [batch=2, nodes] int64 on cpu, got [1, 1] int64 on cpu",
        ),
        (
            lambda t, c: t.run_tree(TokenTree(ROOTS.tokens + 300, ROOTS.parents), c),
            ValueError,
            "tree.tokens must be from 0 to 255, got 304",
        ),
        (
            lambda t, c: (t.prefill(IDS.repeat(1, 2), c), t.run_tree(ROOTS, c)),
            ValueError,
            "append_: the cache must hold prefix and nodes, got capacity 12 for prefix_lengths[0]=12 and 1 nodes",
        ),
    ],
)
def test_refusals(
    target: Target, run: Callable[[Target, object], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"{re.escape(message)}$"):
        run(target, target.new_cache(2, 12))


def test_a_node_beyond_the_last_position(target: Target) -> None:
    cache = target.new_cache(2, 300)
    target.prefill(IDS[:, :1].repeat(1, 255), cache)
    target.run_tree(ROOTS, cache)
    chain = TokenTree(torch.tensor([[3, 4], [3, 0]]), torch.tensor([[-1, 0], [-1, -2]]))
    with pytest.raises(
        ValueError,
        match=r"^run_tree: the model must have a position for each token, got 256 positions and 257 tokens of "
        r"request 0$",
    ):
        target.run_tree(chain, cache)
    assert cache.lengths.tolist() == [255, 255]


def test_a_cache_of_another_model() -> None:
    prepared = prepare(lean_model("llama"))
    other = prepare(lean_model("llama", num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"^prefill: cache must come from new_cache, with 2 layers, got 1$"):
        prepared.prefill(IDS, other.new_cache(2, 8))
