"""Branches summed out from hidden states, or by passes of chunks: both are what all logits at once give."""

from collections.abc import Callable, Iterator

import pytest
import torch
import transformers
from tiny_model import SIZES, tiny_llama
from torch import Tensor
from tree_models import tree_model

from mtp_ext import joint_topk, marginalize, marginalize_topk, predict_marginal
from mtp_ext.integrations import siblings as module
from mtp_ext.integrations.model_head import watch_head
from mtp_ext.integrations.prefix import open_prefix
from mtp_ext.integrations.siblings import SiblingPasses, SiblingStates, siblings
from mtp_ext.testing import error_budget, threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads take longer to meet than to compute."""
    with threads(1):
        yield


def prompt() -> Tensor:
    return torch.randint(3, 256, (1, 20), generator=torch.Generator().manual_seed(1))


def granite() -> transformers.PreTrainedModel:
    """Whose logits are divided by a number at the end: no `ModelHead`."""
    torch.manual_seed(0)
    config = transformers.GraniteConfig(**SIZES, head_dim=16, logits_scaling=3.0, initializer_range=0.3)
    return transformers.GraniteForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (tiny_llama, SiblingStates),
        (lambda: tree_model("llama"), SiblingStates),
        (lambda: tree_model("gemma2"), SiblingStates),
        (lambda: tree_model("gpt_oss"), SiblingStates),
        (granite, SiblingPasses),
    ],
    ids=["llama by masks", "llama", "gemma2", "gpt_oss", "granite"],
)
def test_sums_are_those_of_all_logits(
    make: Callable[[], transformers.PreTrainedModel], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    model = make()
    prefix = open_prefix(model, 1, 20)
    weights = prefix.extend(prompt())[0].log_softmax(-1)[:50]
    tokens = torch.arange(50)
    logits = prefix.branch_logits(0, tokens)
    behind = siblings(prefix, 0, tokens)
    assert type(behind) is kind
    exact = marginalize(logits[None], weights[None], renormalize=False)[0]
    # Both passes and products may be rounded differently; logits are as large as this.
    scale = float(logits.abs().max())
    budget = 50 * error_budget(exact, exact.double(), scale=scale)
    assert (behind.logits(9) - logits[:9]).abs().max() <= budget
    assert (behind.mixture(weights, 0, 50) - exact).abs().max() <= budget
    parts = behind.mixture(weights, 0, 13).logaddexp(behind.mixture(weights, 13, 50))
    assert (parts - exact).abs().max() <= budget
    top, expected = behind.topk(weights, 5), marginalize_topk(logits[None], weights[None], k=5)
    assert torch.equal(top.tokens, expected.tokens[0])
    assert (top.log_probs - expected.log_probs[0]).abs().max() <= budget
    pairs, expected_pairs = behind.joint_topk(weights, 12), joint_topk(logits[None], weights[None], k=12)
    assert torch.equal(pairs.branches, expected_pairs.branches[0])
    assert torch.equal(pairs.tokens, expected_pairs.tokens[0])


def test_a_models_head_is_what_its_pass_shows() -> None:
    model = tree_model("gemma2")
    model.config.final_logit_softcapping = 20.0
    with watch_head(model) as watch, torch.no_grad():
        output = model(prompt(), output_hidden_states=True)
    head = watch.head(output.logits)
    assert head is not None
    assert head.norm is model.model.norm
    assert head.unembedding is model.lm_head.weight
    assert head.softcap == 20.0
    assert not model.lm_head._forward_hooks, "the model is as it was"
    assert watch.head(output.logits + 1) is None, "other logits come from another head"


def test_predictions_of_a_model_with_another_head() -> None:
    model = granite()
    prediction = predict_marginal(model, prompt(), top_k=70, k=4)
    branches = prediction.branches
    sequences = torch.cat([prompt().expand(70, -1), branches.tokens[0, :70, None]], 1)
    with torch.no_grad():
        logits = model(sequences).logits[:, -1]
    expected = marginalize_topk(logits[None], branches.log_probs[:, :70], k=4)
    assert torch.equal(prediction.second.tokens, expected.tokens)
    torch.testing.assert_close(prediction.second.log_probs, expected.log_probs)
