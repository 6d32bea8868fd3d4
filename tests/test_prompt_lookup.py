"""`PromptLookup`: each request drafts from its own text, as it grows. The laws of its index: test_ngram_index.py."""

import math

import torch
from tree_models import tree_model

from mtp_ext import TokenTree
from mtp_ext.decoding import PromptLookup, TransformersTarget
from mtp_ext.decoding.drafters import DraftSession

TARGET = TransformersTarget(tree_model("llama"))
REPEATS = [1, 2, 3, 4, 5, 6, 1, 2, 3]
FRESH = [10, 11, 12]


def session(*prompts: list[int]) -> DraftSession:
    return PromptLookup().start(TARGET, prompts, 100)


def path(tree: TokenTree, request: int) -> list[int]:
    """The most probable path below the root."""
    tokens, parents = tree.tokens[request].tolist(), tree.parents[request].tolist()
    node, found = 0, []
    while node in parents:
        node = parents.index(node)
        found.append(tokens[node])
    return found


def test_each_request_has_its_own_text() -> None:
    drafts = session(REPEATS, FRESH, [7, 7, 7])
    tree = drafts.propose(6, [10, 10, 10])
    TokenTree(tree.tokens, tree.parents, tree.log_probs)
    assert tree.tokens[:, 0].tolist() == [3, 12, 7]
    assert path(tree, 0) == [4, 5, 6, 1, 2]
    assert tree.node_counts.tolist() == [6, 1, 3], "what follows the end of the text is not known"
    assert tree.log_probs[1].tolist() == [0.0] + [-math.inf] * 5


def test_texts_grow_and_leave() -> None:
    drafts = session(REPEATS, FRESH)
    drafts.observe([[4, 5], [10, 11]])
    tree = drafts.propose(8, [10, 10])
    assert tree.tokens[:, 0].tolist() == [5, 11]
    assert path(tree, 0)[:2] == [6, 1]
    assert path(tree, 1) == [12, 10, 11]
    drafts.select([1])
    assert torch.equal(drafts.propose(8, [10]).tokens[0, :4], tree.tokens[1, :4])


def test_depths() -> None:
    tree = session(REPEATS, REPEATS, REPEATS).propose(20, [0, 2, 30])
    assert tree.depths.amax(1).tolist() == [0, 2, 6]
    assert tree.node_counts.tolist()[0] == 1


def test_drafts_are_alike_in_any_batch() -> None:
    alone = session(REPEATS).propose(12, [9])
    together = session(FRESH, REPEATS).propose(12, [9, 9])
    count = int(alone.node_counts)
    assert torch.equal(together.tokens[1, :count], alone.tokens[0])
    assert torch.equal(together.log_probs[1, :count], alone.log_probs[0])
