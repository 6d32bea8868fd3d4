"""`DraftModel`: the most probable paths of the draft model, whatever it has read before; refusals."""

import itertools

import pytest
import torch
import transformers
from drafters import Recorded
from torch import Tensor
from tree_models import oracle_of, tree_model

from mtp_ext import TokenTree
from mtp_ext.decoding import Drafter, DraftModel, TransformersTarget, first_layers, generate, prepare
from mtp_ext.testing import assert_within_budget

PROMPT = [3, 14, 15, 92, 65, 35]


@pytest.fixture(scope="module")
def target() -> TransformersTarget:
    return TransformersTarget(tree_model("llama"))


@torch.no_grad()
def log_probs(model: transformers.PreTrainedModel, paths: list[tuple[int, ...]]) -> Tensor:
    """Of the root and these paths behind PROMPT, [1, 1 + paths], in the model's dtype."""
    found = [torch.zeros((), dtype=model.dtype)]
    for path in paths:
        steps = model(torch.tensor([[*PROMPT, *path]])).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
        found.append(steps.gather(1, torch.tensor(path)[:, None]).sum())
    return torch.stack(found)[None]


def paths(tree: TokenTree, request: int = 0) -> list[tuple[int, ...]]:
    """Of the nodes below the root."""
    found: list[tuple[int, ...]] = [()]
    count = int(tree.node_counts[request])
    rows = zip(tree.tokens[request, 1:count].tolist(), tree.parents[request, 1:count].tolist(), strict=True)
    for token, parent in rows:
        found.append((*found[parent], token))
    return found[1:]


@torch.no_grad()
def test_the_most_probable_paths(target: TransformersTarget) -> None:
    """With a width that nothing falls out of, the tree holds the best of all paths of its depth."""
    tree = DraftModel(target, depth=2, width=256, least_mass=0.0).start(target, [PROMPT], 50).propose(12, [9])
    TokenTree(tree.tokens, tree.parents, tree.log_probs)
    found = paths(tree)
    oracle = log_probs(oracle_of(target.model), found)
    assert_within_budget(tree.log_probs, log_probs(target.model, found), oracle)
    first = target.model(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    pairs = [
        (float(first[token] + second), (token, other))
        for token in first.topk(12).indices.tolist()
        for second, other in zip(
            *(
                values.tolist()
                for values in target.model(torch.tensor([[*PROMPT, token]])).logits[0, -1].log_softmax(-1).topk(12)
            ),
            strict=True,
        )
    ]
    singles = [(float(first[token]), (token,)) for token in first.topk(12).indices.tolist()]
    best = sorted(singles + pairs, reverse=True)[:11]
    assert set(found) == {path for _, path in best}


def test_drafts_do_not_depend_on_what_went_before(target: TransformersTarget) -> None:
    """Neither on how the text came in, nor on other requests, nor on drafts that were wrong."""
    drafter = DraftModel(target, depth=3, width=3, least_mass=0.0)
    fresh = drafter.start(target, [[*PROMPT, 7, 8, 9]], 50).propose(10, [9])
    grown = drafter.start(target, [[1, 2], PROMPT], 50)
    grown.propose(10, [9, 9])
    grown.observe([[5], [7]])
    grown.propose(6, [9, 9])
    grown.observe([[6, 6, 6], [8, 9]])
    assert paths(grown.propose(10, [9, 9]), 1) == paths(fresh)
    grown.select([1])
    again = grown.propose(10, [9])
    assert paths(again) == paths(fresh)
    assert torch.allclose(again.log_probs, fresh.log_probs, atol=1e-4)


def test_limits(target: TransformersTarget) -> None:
    draft = Recorded(target)
    drafts = DraftModel(draft, depth=4, width=2, least_mass=0.0).start(target, [PROMPT] * 3, 50)
    tree = drafts.propose(64, [0, 1, 3])
    assert tree.depths.amax(1).tolist() == [0, 1, 3]
    assert tree.node_counts.tolist() == [1, 3, 7]
    assert len(draft.passes) == 2, "no level that nobody may have"
    draft.passes.clear()
    assert drafts.propose(1, [9, 9, 9]).tokens.shape == (3, 1)
    assert draft.passes == []


def test_no_further_level_without_hope(target: TransformersTarget) -> None:
    for least_mass, levels in ((0.0, 4), (1.0, 1)):
        draft = Recorded(target)
        drafter = DraftModel(draft, depth=4, width=2, least_mass=least_mass)
        assert int(drafter.start(target, [PROMPT], 50).propose(64, [9]).depths.max()) == levels
        assert len(draft.passes) == levels - 1


def test_the_first_layers(target: TransformersTarget) -> None:
    model = target.model
    short = first_layers(model, 1)
    assert len(short.base_model.layers) == 1
    assert len(model.base_model.layers) == 2, "the model stays as it is"
    assert short.lm_head.weight is model.lm_head.weight
    ids = torch.tensor([PROMPT])
    hidden = model(ids, output_hidden_states=True).hidden_states[1]
    expected = model.lm_head(model.model.norm(hidden))[:, -1]
    run = TransformersTarget(short)
    assert torch.allclose(run.prefill(ids, run.new_cache(1, 10)).logits()[:, 0], expected, atol=1e-4)
    assert torch.equal(first_layers(model, 2)(ids).logits, model(ids).logits)
    prepared: Drafter = DraftModel(prepare(short))
    plain = generate(target, ids, max_new_tokens=8)
    assert torch.equal(generate(target, ids, prepared, max_new_tokens=8, budget=6).sequences[0], plain.sequences[0])


def test_refusals(target: TransformersTarget) -> None:
    def refusal(call: object, *arguments: object, **options: object) -> str:
        with pytest.raises((ValueError, TypeError)) as refused:
            call(*arguments, **options)
        return str(refused.value)

    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64)
    other = DraftModel(transformers.LlamaForCausalLM(config).eval())
    ids = torch.tensor([PROMPT])
    assert refusal(generate, target, ids, other, max_new_tokens=4) == (
        "DraftModel: model must share the tokenizer of the model it drafts for, got 128 tokens for 256"
    )
    config.vocab_size = 256
    short = DraftModel(transformers.LlamaForCausalLM(config).eval())
    assert refusal(generate, target, ids, short, max_new_tokens=60) == (
        "DraftModel: model must have a position for each of 66 tokens, got 64"
    )
    assert refusal(DraftModel, target, depth=0) == "DraftModel: depth must be from 1 to 64, got 0"
    assert refusal(DraftModel, target, width=0) == "DraftModel: width must be from 1 to 1024, got 0"
    assert refusal(DraftModel, target, least_mass=2.0) == "DraftModel: least_mass must be in [0, 1], got 2.0"
    assert refusal(first_layers, target.model, 3) == "first_layers: layers must be from 1 to 2, got 3"
    assert refusal(first_layers, torch.nn.Linear(2, 2), 1) == (
        "first_layers: model must be a transformers model with a list of layers, got Linear"
    )
    mamba = transformers.MambaConfig(vocab_size=256, hidden_size=32, state_size=4, num_hidden_layers=1)
    assert "TransformersTarget: model must be a causal decoder" in refusal(
        DraftModel, transformers.MambaForCausalLM(mamba)
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("root", r"propose: the roots of a draft must be the last tokens, \[\d+\], got \[0\]"),
        ("nodes", r"propose: a draft must have at most 4 nodes, got 5"),
        ("token", r"propose: a draft must be of the 256 tokens of the model it is for, got token 300; do both share a"),
    ],
)
def test_faulty_drafters_are_named(target: TransformersTarget, fault: str, message: str) -> None:
    class Faulty:
        def start(self, *_: object) -> "Faulty":
            return self

        def propose(self, nodes: int, depths: object) -> TokenTree:
            root = 0 if fault == "root" else self.root
            tokens = [root, *itertools.repeat(300 if fault == "token" else 1, 4 if fault == "nodes" else 1)]
            return TokenTree(torch.tensor([tokens]), torch.arange(-1, len(tokens) - 1)[None])

        def observe(self, accepted: list[list[int]]) -> None:
            self.root = accepted[0][-1]

    with pytest.raises(RuntimeError, match=message):
        generate(target, torch.tensor([PROMPT]), Faulty(), max_new_tokens=9, budget=4)
