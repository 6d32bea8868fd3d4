"""Laws of verify_greedy: path and next token are what greedy decoding writes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.testing import assert_same_bits, peaked_logits, threads
from mtp_ext.testing_trees import random_parents, siblings
from mtp_ext.verify import Accepted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tree_of(parents: list[list[int]], tokens: Tensor) -> mtp_ext.TokenTree:
    """Trees of these shapes, padded, with these tokens [batch, nodes]."""
    table = torch.tensor([[*tree, *[-2] * (tokens.shape[1] - len(tree))] for tree in parents], dtype=torch.int64)
    table = table.view(tokens.shape)
    return mtp_ext.TokenTree(tokens, table, validate=False)


def run(tree: mtp_ext.TokenTree, target: Tensor, device: str) -> Accepted:
    there = mtp_ext.TokenTree(tree.tokens.to(device), tree.parents.to(device), validate=False)
    return Accepted(*[part.cpu() for part in mtp_ext.verify_greedy(there, target.to(device))])


def plausible(parents: list[list[int]], logits: Tensor, seed: int) -> mtp_ext.TokenTree:
    """Trees whose nodes hold the target's best token after their parent, two times out of three."""
    generator = torch.Generator().manual_seed(seed)
    batch, nodes, vocab = logits.shape
    tokens = torch.randint(vocab, (batch, nodes), generator=generator)
    best = logits.argmax(-1)
    for b, tree in enumerate(parents):
        for node, parent in enumerate(tree):
            if parent >= 0 and torch.rand((), generator=generator) < 2 / 3:
                tokens[b, node] = best[b, parent]
    return tree_of(parents, tokens)


def expected(tree: mtp_ext.TokenTree, logits: Tensor) -> Accepted:
    """Greedy decoding, a token at a time, as far as the tree goes."""
    nodes, lengths, following = torch.full_like(tree.tokens, -1), [], []
    for b, parents in enumerate(tree.parents.tolist()):
        node, path = 0 if parents[0] == -1 else -1, []
        token = -1
        while node >= 0:
            path.append(node)
            token = int(logits[b, node].argmax())
            below = [i for i, parent in enumerate(parents) if parent == node and int(tree.tokens[b, i]) == token]
            node = below[0] if below else -1
        nodes[b, : len(path)] = torch.tensor(path, dtype=torch.int64)
        lengths.append(len(path))
        following.append(token)
    return Accepted(nodes, torch.tensor(lengths), torch.tensor(following))


SHAPES = [random_parents(20, 3), siblings(30), [-1], random_parents(30, 1), [], random_parents(30, 30)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [3, 17, 513, 8193, 49152])
def test_writes_what_greedy_decoding_writes(device: str, vocab: int, dtype: torch.dtype) -> None:
    shapes = SHAPES if vocab < 40_000 else SHAPES[:2]
    logits = peaked_logits(len(shapes), 30, vocab, seed=0, dtype=dtype)
    tree = plausible(shapes, logits, seed=1)
    assert_same_bits(run(tree, logits, device), expected(tree, logits))
    assert_same_bits(run(tree, logits.argmax(-1), device), expected(tree, logits))


@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 2, 33, 1031]))
def test_any_tree(device: str, seed: int, nodes: int, reach: int, vocab: int) -> None:
    parents = [random_parents(nodes, reach, seed), random_parents(max(nodes - 3, 1), reach, seed + 1)]
    logits = torch.randint(-3, 3, (2, nodes, vocab), generator=torch.Generator().manual_seed(seed)).float()  # ties
    tree = plausible(parents, logits, seed)
    assert_same_bits(run(tree, logits, device), expected(tree, logits))


def test_the_first_of_equal_siblings_is_accepted(device: str) -> None:
    tree = tree_of([[-1, 0, 0, 1, 2]], torch.tensor([[0, 4, 4, 1, 4]]))
    logits = torch.zeros(1, 5, 6)
    logits[..., 4] = 1.0
    assert run(tree, logits, device).nodes.tolist() == [[0, 1, -1, -1, -1]]


def test_ties_go_to_the_lower_token(device: str) -> None:
    logits = torch.full((1, 1, 9001), -1.0)
    logits[0, 0, [8999, 700, 4099, 9000]] = 2.0
    assert run(tree_of([[-1]], torch.zeros(1, 1, dtype=torch.int64)), logits, device).next_tokens.tolist() == [700]


@pytest.mark.parametrize("token", [0, 5, 700, 8999])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_broken_logits_are_reported(device: str, number: float, dtype: torch.dtype, token: int) -> None:
    """And nothing below that node is accepted; broken logits off the path do no harm."""
    logits = peaked_logits(2, 3, 9001, seed=0, dtype=dtype)
    logits[0, 0, 1] = logits[0, 1, 2] = logits[1, 0, 1] = 100.0
    tree = tree_of([[-1, 0, 1], [-1, 0, 0]], torch.tensor([[0, 1, 2], [0, 1, 1]]))
    logits[:, :2] = logits[:, :2].clamp(min=-50)
    logits[0, 1, token] = logits[1, 2, token] = number
    best = int(logits[1, 1].argmax())
    assert run(tree, logits, device).next_tokens.tolist() == [-1, best]
    assert run(tree, logits, device).lengths.tolist() == [2, 2]


def test_logits_of_minus_infinity(device: str) -> None:
    """All of them: there is no best token. All but one: it is that one."""
    logits = torch.full((2, 1, 8200), -torch.inf)
    logits[1, 0, 8195] = -1e30
    tree = tree_of([[-1], [-1]], torch.zeros(2, 1, dtype=torch.int64))
    assert run(tree, logits, device).next_tokens.tolist() == [-1, 8195]


def test_tokens_that_are_none(device: str) -> None:
    """A best token of -1 stands for broken logits."""
    tree = tree_of([[-1, 0]], torch.tensor([[3, -1]]))
    result = run(tree, torch.tensor([[-1, 5]]), device)
    assert (result.nodes.tolist(), result.next_tokens.tolist()) == ([[0, -1]], [-1])


def test_layout_threads_and_place(device: str) -> None:
    logits = peaked_logits(len(SHAPES), 30, 20_011, seed=2)
    tree = plausible(SHAPES, logits, seed=3)
    with threads(1):
        one = run(tree, logits, device)
    with threads(2):
        assert_same_bits(run(tree, logits, device), one)
    view = torch.full((30, len(SHAPES) + 1, 20_020), torch.nan)[:, 1:, 3:-6].transpose(0, 1)
    assert_same_bits(run(tree, view.copy_(logits), device), one)
    for b in range(len(SHAPES)):
        alone = mtp_ext.TokenTree(tree.tokens[b : b + 1], tree.parents[b : b + 1], validate=False)
        assert_same_bits(run(alone, logits[b : b + 1], device), [part[b : b + 1] for part in one])


@pytest.mark.parametrize("shape", [(0, 4, 5), (0, 0, 5), (2, 0, 5)])
def test_nothing_to_verify(device: str, shape: tuple[int, int, int]) -> None:
    tree = tree_of([[]] * shape[0], torch.zeros(shape[:2], dtype=torch.int64))
    result = run(tree, torch.zeros(shape), device)
    assert (result.nodes.shape, result.lengths.tolist()) == (shape[:2], [0] * shape[0])
    assert result.next_tokens.tolist() == [-1] * shape[0]


def test_the_reference(device: str) -> None:
    logits = peaked_logits(len(SHAPES), 30, 1031, seed=4)
    tree = plausible(SHAPES, logits, seed=5)
    assert_same_bits(reference.verify_greedy(tree.tokens, tree.parents, logits), expected(tree, logits))
