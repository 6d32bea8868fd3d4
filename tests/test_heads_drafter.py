"""MTP heads as a drafter: the model's own text, from trees that are what the heads say of it."""

from collections.abc import Callable

import pytest
import torch
from drafters import Recorded
from head_models import KINDS, head_model, trained_heads
from torch import Tensor
from tree_models import prompts

from mtp_ext import TokenTree
from mtp_ext.decoding import HeadsDrafter, PreparedModel, Target, TransformersTarget, generate, prepare
from mtp_ext.heads import MTPHeads
from mtp_ext.heads.config import SEQUENTIAL

NEW = 20
TARGETS = {"transformers": TransformersTarget, "prepared": prepare}


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param](head_model())


ALL_KINDS = [*((*kind, [1, 2, 3]) for kind in KINDS), *((kind, "last", [2, 3, 4]) for kind in SEQUENTIAL)]
SOME_TOKENS = torch.arange(0, 256, 3)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(("kind", "hidden_states", "horizons"), ALL_KINDS)
def test_the_text_is_that_of_plain_decoding(
    target: Target, kind: str, hidden_states: str, horizons: list[int], left: bool
) -> None:
    """A batch with padding, at a fixed budget and at the one that is fastest."""
    ids, mask = prompts(left=left)
    drafter = HeadsDrafter(trained_heads(head_model(), horizons, kind, hidden_states))
    plain = generate(target, ids, attention_mask=mask, max_new_tokens=NEW)
    for budget in (9, None):
        drafted = generate(target, ids, drafter, attention_mask=mask, max_new_tokens=NEW, budget=budget)
        for text, expected in zip(drafted.sequences, plain.sequences, strict=True):
            assert torch.equal(text, expected)
        if budget is not None:
            assert drafted.statistics.drafted > 100


class Said:
    """What heads say of a text as a whole.

    Args:
        heads: that draft.
        rounded: as with an LM head for drafts that is stored in bfloat16.
    """

    def __init__(self, heads: MTPHeads, rounded: bool) -> None:
        self.heads, rows = heads, heads.unembedding
        self.tokens = torch.arange(len(rows)) if heads.draft_tokens is None else heads.draft_tokens
        self._rows = (rows.bfloat16().float() if rounded else rows)[self.tokens]

    def hidden(self, texts: list[list[int]]) -> list[Tensor]:
        """Of each head, of texts of one length."""
        return self.heads(self.heads.layer_outputs(head_model(), torch.tensor(texts)))

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Of `tokens`."""
        return (hidden @ self._rows.T).log_softmax(-1)


def assert_along_paths(tree: TokenTree, request: int, said: Said, text: list[int], nodes: int, depth: int) -> None:
    """Every node's log-probability is the sum of what the heads give along its path, given the tokens above it."""
    count = int(tree.node_counts[request])
    assert count <= nodes
    assert int(tree.depths[request, :count].max()) <= depth
    tokens, parents, log_probs = (x[request, :count].tolist() for x in (tree.tokens, tree.parents, tree.log_probs))
    assert tokens[0] == text[-1]
    assert log_probs == sorted(log_probs, reverse=True)
    paths = [[tokens[0]]]
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        paths.append([*paths[parent], token])
    # Of every node's parent the text down to it, padded behind it, where nothing looks.
    above = [text[:-1] + paths[parent] for parent in parents[1:]]
    longest = max(map(len, above), default=0)
    hidden = said.hidden([line + [0] * (longest - len(line)) for line in above])
    for row, (token, parent) in enumerate(zip(tokens[1:], parents[1:], strict=True)):
        level = said.log_probs(hidden[len(paths[parent]) - 1][row, len(text) - 2])
        assert abs(log_probs[row + 1] - log_probs[parent] - level[said.tokens == token].item()) < 1e-3


def assert_best_first(tree: TokenTree, request: int, said: Said, text: list[int], nodes: int, depth: int) -> None:
    """The tree is the best one of what the heads say of a text, whose last token is the root."""
    top = [said.log_probs(hidden[0, -1]).topk(8) for hidden in said.hidden([text[:-1]])]
    levels = [top[said.heads.config.horizons.index(horizon)] for horizon in range(2, 2 + min(depth, 2))]
    tokens = torch.stack([said.tokens[level.indices] for level in levels])[None]
    log_probs = torch.stack([level.values for level in levels])[None]
    expected = TokenTree.best_first(torch.tensor(text[-1:]), tokens, log_probs, budget=nodes)
    count = int(tree.node_counts[request])
    assert count == expected.tokens.shape[1]
    assert torch.equal(tree.tokens[request, :count], expected.tokens[0])
    assert torch.equal(tree.parents[request, :count], expected.parents[0])
    torch.testing.assert_close(tree.log_probs[request, :count], expected.log_probs[0], rtol=1e-4, atol=1e-4)


class Comparing:
    """A drafter that compares what its sessions propose with what the heads say.

    Args:
        drafter: that drafts.
        every: so many passes; those without a draft leave states to catch up with.
        compare: `assert_along_paths` or `assert_best_first`.
    """

    def __init__(self, drafter: HeadsDrafter, every: int, compare: Callable[..., None]) -> None:
        self.drafter, self.every, self.compare = drafter, every, compare
        self.compared, self.deepest = 0, 0

    def start(self, target: Target, texts: list[list[int]], max_new_tokens: int) -> "Comparing":
        self.session = self.drafter.start(target, texts, max_new_tokens)
        self.said = Said(self.drafter.heads, isinstance(target, PreparedModel))
        self.texts = [list(text) for text in texts]
        self.layers, self.read, self.passes = self.session.layers, self.session.read, 0
        return self

    @torch.no_grad()
    def propose(self, nodes: int, depths: list[int]) -> TokenTree:
        self.passes += 1
        if self.passes % self.every:
            return self.session.propose(1, depths)
        tree = self.session.propose(nodes, depths)
        for request, (text, depth) in enumerate(zip(self.texts, depths, strict=True)):
            if depth:
                self.compare(tree, request, self.said, text, nodes, depth)
                self.compared += 1
            else:
                assert (int(tree.node_counts[request]), int(tree.tokens[request, 0])) == (1, text[-1])
        self.deepest = max(self.deepest, int(tree.depths.max()))
        return tree

    def observe(self, accepted: list[list[int]]) -> None:
        self.session.observe(accepted)
        for text, tokens in zip(self.texts, accepted, strict=True):
            text += tokens

    def select(self, requests: list[int]) -> None:
        self.session.select(requests)
        self.texts = [self.texts[request] for request in requests]


@pytest.mark.parametrize("tokens", [None, SOME_TOKENS], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("kind", "hidden_states", "horizons"), [*((*kind, [2, 3]) for kind in KINDS), *ALL_KINDS])
def test_drafts_are_what_the_heads_say(
    target: Target, kind: str, hidden_states: str, horizons: list[int], every: int, tokens: Tensor | None
) -> None:
    """Of each request of a batch with padding, whatever was accepted before, and after others have left."""
    ids, mask = prompts()
    heads = trained_heads(head_model(), horizons, kind, hidden_states)
    if tokens is not None:
        heads.draft_from(tokens)
    compare, width, budget = (assert_along_paths, 3, 8) if kind in SEQUENTIAL else (assert_best_first, 8, 12)
    drafter = Comparing(HeadsDrafter(heads, width=width), every, compare)
    plain = generate(target, ids, attention_mask=mask, max_new_tokens=NEW)
    stop = plain.new_tokens[1][NEW // 2].item()  # so that a request ends before the others
    drafted = generate(target, ids, drafter, attention_mask=mask, max_new_tokens=NEW, budget=budget, stop_tokens=[stop])
    assert len({len(tokens) for tokens in drafted.new_tokens}) > 1
    assert drafter.compared > 5
    assert drafter.deepest == horizons[-1] - 1


@pytest.mark.parametrize("kind", ["mlp", "prefix"])
def test_fewer_tokens_than_the_width(target: Target, kind: str) -> None:
    ids, mask = prompts()
    heads = trained_heads(head_model(), [2, 3], kind, "last").draft_from(torch.tensor([7, 9]))
    plain = generate(target, ids, attention_mask=mask, max_new_tokens=NEW)
    drafted = generate(target, ids, HeadsDrafter(heads), attention_mask=mask, max_new_tokens=NEW, budget=9)
    for text, expected in zip(drafted.sequences, plain.sequences, strict=True):
        assert torch.equal(text, expected)
    assert drafted.statistics.drafted > 100


def test_sampling_repeats_itself(target: Target) -> None:
    ids, mask = prompts()
    drafter = HeadsDrafter(trained_heads(head_model(), [2, 3], "mlp", "last"))
    options = {"attention_mask": mask, "max_new_tokens": NEW, "budget": 6, "temperature": 0.8, "seed": 3}
    first, again = (generate(target, ids, drafter, **options) for _ in range(2))
    for one, other in zip(first.sequences, again.sequences, strict=True):
        assert torch.equal(one, other)


def test_a_model_in_bfloat16() -> None:
    model = head_model().bfloat16()
    drafter = HeadsDrafter(trained_heads(model, [2, 3], "transformer", "weighted"))
    for target in (TransformersTarget(model), prepare(model)):
        assert generate(target, prompts()[0], drafter, max_new_tokens=8, budget=6).statistics.drafted > 0


def test_a_gap_between_horizons_ends_the_tree(target: Target) -> None:
    heads = trained_heads(head_model(), [1, 2, 3, 5], "mlp", "last")
    session = HeadsDrafter(heads).start(target, [[1, 2, 3]], 50)
    keeping = target.keeping(session.layers)
    cache = keeping.new_cache(1, 64)
    session.read(keeping.prefill(torch.tensor([[1, 2, 3]]), cache).layer_outputs, [[0, 1, 2]])
    tree = session.propose(64, [9])
    assert int(tree.depths.max()) == 2
    assert session.propose(64, [1]).depths.max() == 1
    assert session.propose(64, [0]).tokens.tolist() == [[3]]
    assert session.propose(1, [9]).tokens.tolist() == [[3]]


def test_refusals(target: Target) -> None:
    model = head_model()

    def refusal(call: object, *arguments: object, **options: object) -> str:
        with pytest.raises((ValueError, TypeError)) as refused:
            call(*arguments, **options)
        return str(refused.value)

    heads = MTPHeads.from_model(model, [2], kind="mlp")
    ids = torch.tensor([[1, 2, 3]])
    assert refusal(HeadsDrafter, MTPHeads.from_model(model, [1, 3], kind="mlp")) == (
        "HeadsDrafter: heads must have a head of horizon 2, got horizons [1, 3]"
    )
    assert refusal(HeadsDrafter, heads, width=0) == "HeadsDrafter: width must be from 1 to 1024, got 0"
    assert refusal(generate, Recorded(target), ids, HeadsDrafter(heads), max_new_tokens=4) == (
        "HeadsDrafter: the target must show its hidden states, as a ReadableTarget does, got Recorded"
    )
    small = head_model()
    small.resize_token_embeddings(128)
    other = HeadsDrafter(MTPHeads.from_model(small, [2], kind="mlp"))
    assert refusal(generate, target, ids, other, max_new_tokens=4) == (
        "HeadsDrafter: heads must be of the model they draft for, got heads for 128 tokens and a model of 256"
    )
