"""Laws of MTP heads: what they are at first, what they read, and that they leave the model alone."""

import pytest
import torch
import transformers
from head_models import FAMILIES, KINDS, head_model, trained_heads
from torch import Tensor
from torch.nn.functional import silu
from transformers import PreTrainedModel
from tree_models import prompts

from mtp_ext.heads import LayerOutputs, MTPHeads, Prefix
from mtp_ext.heads.config import SEQUENTIAL
from mtp_ext.testing import assert_same_bits, assert_within_budget

HORIZONS = [2, 3, 5]


def new_heads(model: PreTrainedModel, kind: str, hidden_states: str = "last", seed: int = 0) -> MTPHeads:
    return MTPHeads.from_model(model, HORIZONS, kind=kind, hidden_states=hidden_states, seed=seed).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_first_transformer_head_is_the_final_layer(family: str) -> None:
    """So that it says what the model says; with padding, and whatever the model calls its parts."""
    model = head_model(family)
    ids, mask = prompts()
    heads = new_heads(model, "transformer")
    states = heads.layer_outputs(model, ids, mask)
    first, *others = heads(states, attention_mask=mask)
    real = mask.bool()
    assert_same_bits(first[real], states.last_hidden[real])
    own = model(ids, attention_mask=mask).logits
    if family != "gemma2":  # which caps its logits
        assert_same_bits((first @ heads.unembedding.T)[real], own[real])
    for other in others:
        assert (other[real] - first[real]).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "hidden_states"), KINDS)
@torch.no_grad()
def test_shapes(kind: str, hidden_states: str) -> None:
    model = head_model().bfloat16()
    heads = new_heads(model, kind, hidden_states)
    out = heads(heads.layer_outputs(model, prompts()[0]))
    assert [(x.shape, x.dtype) for x in out] == [((3, 20, 32), torch.bfloat16)] * 3
    assert heads.unembedding.shape == (256, 32)
    assert heads.config.horizons == (2, 3, 5)
    names = [name for name, _ in heads.named_parameters()]
    assert not any("embed" in name or "lm_head" in name or name.endswith(".norm.weight") for name in names)


@torch.no_grad()
def test_mlp_heads_start_with_the_next_token() -> None:
    model = head_model()
    heads = new_heads(model, "mlp")
    states = heads.layer_outputs(model, prompts()[0])
    for out in heads(states):
        assert_same_bits(out, states.last_hidden)
    wide = MTPHeads.from_model(model, [2], kind="mlp", width=100)
    assert wide.heads[0].up.weight.shape == (100, 32)


@torch.no_grad()
def test_sequential_heads_follow_each_other_and_the_text() -> None:
    """Each reads what the one before it gives, and the token before the one it predicts."""
    model = head_model()
    ids, _ = prompts()
    fresh = MTPHeads.from_model(model, [2, 3], kind="sequential")
    states = fresh.layer_outputs(model, ids)
    for out in fresh(states):
        assert_same_bits(out, states.last_hidden)
    heads = trained_heads(model, [2, 3], "sequential", "last")
    second, third = heads(states)
    for place in (0, 7):
        hidden = heads.follow(0, states.last_hidden[:, place], ids[:, place + 1])
        assert_within_budget(hidden, second[:, place], second[:, place].double())
        hidden = heads.follow(1, hidden, ids[:, place + 2])
        assert_within_budget(hidden, third[:, place], third[:, place].double())
    changed = ids.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 256
    other = heads(LayerOutputs(states.layers, states.last_hidden, changed))
    assert [(a != b).any(-1)[0].nonzero().flatten().tolist() for a, b in zip((second, third), other, strict=True)] == [
        [7],
        [6, 7],
    ]


@torch.no_grad()
def test_prefix_heads_start_as_sequential_ones_and_then_look_back() -> None:
    """At what several layers gave for the places up to t and the tokens behind them, and at nothing later."""
    model = head_model(layers=5)
    ids, _ = prompts()
    fresh = MTPHeads.from_model(model, [2, 3], kind="prefix")
    assert list(fresh.config.layers) == [2, 4, 5]
    states = fresh.layer_outputs(model, ids)
    for out in fresh(states):
        assert_same_bits(out, states.last_hidden)
    heads = trained_heads(model, [2, 3], "prefix", "last")
    whole = heads(states)

    def changed_places(layer: int, place: int) -> list[list[int]]:
        layers = [state.clone() for state in states.layers]
        layers[layer][:, place] += 1.0
        others = heads(LayerOutputs(tuple(layers), states.last_hidden, ids))
        return [(a != b).any(-1)[0].nonzero().flatten().tolist() for a, b in zip(whole, others, strict=True)]

    assert changed_places(0, 6) == [list(range(6, 20))] * 2
    assert changed_places(2, 6) == [list(range(6, 20))] * 2
    changed = ids.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 256
    others = heads(LayerOutputs(states.layers, states.last_hidden, changed))
    first = [int((a != b).any(-1)[0].nonzero()[0]) for a, b in zip(whole, others, strict=True)]
    assert first == [7, 6], "the token before the one that is predicted is read, and none behind it"


@torch.no_grad()
def test_prefix_heads_go_on_behind_what_they_have_read() -> None:
    """Keys and values that were read in parts, and queries at one place, give what a pass over the whole text does."""
    model = head_model(layers=5)
    heads = trained_heads(model, [2, 3], "prefix", "last")
    exact = trained_heads(model, [2, 3], "prefix", "last").double().bind(head_model(layers=5).double())
    ids, _ = prompts()
    states = heads.layer_outputs(model, ids)
    whole = heads(states)
    oracle = exact(LayerOutputs(tuple(x.double() for x in states.layers), states.last_hidden.double(), ids))
    parts = [
        heads.read([layer[:, begin:end] for layer in states.layers], ids[:, begin + 1 : end + 1], begin)
        for begin, end in ((0, 9), (9, 10), (10, 13))
    ]
    keys, values = (torch.cat(part, 2) for part in zip(*parts, strict=True))
    prefix = Prefix(keys, values, torch.tensor([[12]]))
    hidden = heads.first_hidden([layer[:, 12:13] for layer in states.layers])
    for level in (0, 1):
        hidden = heads.follow(level, hidden, ids[:, 13 + level : 14 + level], prefix)
        assert_within_budget(hidden[:, 0], whole[level][:, 12], oracle[level][:, 12])


@torch.no_grad()
def test_prefix_attention_is_the_formula() -> None:
    """One place at a time, in float64, with rotations as complex numbers."""
    model = head_model(layers=5)
    heads = trained_heads(model, [2, 3], "prefix", "last")
    ids, _ = prompts()
    states = heads.layer_outputs(model, ids)
    outputs = heads(states)
    start = heads.first_hidden(states.layers)
    head, reader = heads.heads[1].double(), heads.reader.double()
    table, t, level = heads.unembedding.double(), 11, 1

    def normed(x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()

    def turned(x: Tensor, place: int) -> Tensor:
        one, other = x.split(32, -1)
        angle = place * 10_000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
        turned = torch.complex(one, other) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    *inner, last = (layer[0, t].double() for layer in states.layers)
    expected = last + reader.inner.weight @ torch.cat([normed(state) for state in inner])
    torch.testing.assert_close(start[0, t].double(), expected, rtol=1e-4, atol=1e-4)
    hidden = outputs[0][0, t].double()  # what the head before it says of this place
    token = normed(table[ids[0, t + 1 + level]])
    query = (head.query.weight @ torch.cat([normed(hidden), token])).view(-1, 64)
    read = [
        reader.kv.weight
        @ torch.cat([*(normed(layer[0, s].double()) for layer in states.layers), normed(table[ids[0, s + 1]])])
        for s in range(t + 1)
    ]
    keys = torch.stack([turned(kv[:64], s) for s, kv in enumerate(read)])
    values = torch.stack([kv[64:] for kv in read])
    seen = [(keys @ turned(q, t + level) / 8).softmax(0) @ values for q in query]
    hidden = hidden + head.out.weight @ torch.cat(seen)
    hidden = hidden + head.down.weight @ silu(head.up.weight @ torch.cat([hidden, token]))
    torch.testing.assert_close(outputs[1][0, t].double(), hidden, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_seed_decides() -> None:
    model = head_model()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    same, other = new_heads(model, "transformer"), new_heads(model, "transformer", seed=1)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator goes on as if nothing had been"
    torch.manual_seed(6)
    again = new_heads(model, "transformer")
    for name, weight in same.state_dict().items():
        assert_same_bits(weight, again.state_dict()[name])
    assert not torch.equal(same.heads[1].mlp.up_proj.weight, other.heads[1].mlp.up_proj.weight)
    assert torch.equal(same.heads[0].mlp.up_proj.weight, model.model.layers[-1].mlp.up_proj.weight)
    assert abs(same.heads[1].mlp.up_proj.weight.std() - model.config.initializer_range) < 0.03


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@torch.no_grad()
def test_weighted_hidden_states_are_the_formula(kind: str) -> None:
    """softmax(w_n / T) . Z, T = 0.1, over layers 1 to L-1, with w = 0.1 at first."""
    model = head_model(layers=4)
    heads = new_heads(model, kind, "weighted")
    assert_same_bits(heads.layer_weights, torch.full((3, 3), 0.1))
    ids, _ = prompts()
    hidden = model(ids, output_hidden_states=True).hidden_states
    states = heads.layer_outputs(model, ids)
    for kept, expected in zip(states.layers, hidden[1:-1], strict=True):
        assert_same_bits(kept, expected)
    heads = trained_heads(model, HORIZONS, kind, "weighted")

    def mixture(weights: Tensor, layers: list[Tensor]) -> list[Tensor]:
        return list(torch.einsum("nl,lbtd->nbtd", (weights / 0.1).softmax(-1), torch.stack(layers)))

    inner = hidden[1:-1]
    expected = mixture(heads.layer_weights, inner)
    oracle = mixture(heads.layer_weights.double(), [layer.double() for layer in inner])
    for actual, one, exact in zip(heads.mixtures(states.layers), expected, oracle, strict=True):
        assert_within_budget(actual, one, exact, scale=0.0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_caches_continue_a_text(family: str) -> None:
    model = head_model(family)
    heads = trained_heads(model, [1, 2], "transformer", "last")
    states = heads.layer_outputs(model, prompts()[0])
    exact = trained_heads(model, [1, 2], "transformer", "last").double().bind(head_model(family).double())
    whole = heads(states)
    oracle = exact(
        LayerOutputs(tuple(layer.double() for layer in states.layers), states.last_hidden.double(), states.input_ids)
    )
    caches, parts = heads.new_caches(), []
    for begin, end in ((0, 11), (11, 12), (12, 20)):
        part = tuple(layer[:, begin:end] for layer in states.layers)
        some = LayerOutputs(part, states.last_hidden[:, begin:end], states.input_ids[:, begin:end])
        parts.append(heads(some, caches=caches))
    for i, (expected, precise) in enumerate(zip(whole, oracle, strict=True)):
        assert_within_budget(torch.cat([part[i] for part in parts], 1), expected, precise, scale=0.0)


@pytest.mark.parametrize(("kind", "hidden_states"), [*KINDS, ("sequential", "last"), ("prefix", "last")])
def test_gradients_reach_the_heads_and_nothing_else(kind: str, hidden_states: str) -> None:
    model = head_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    horizons = [2, 3] if kind in SEQUENTIAL else HORIZONS
    heads = trained_heads(model, horizons, kind, hidden_states).train()
    with torch.no_grad():
        states = heads.layer_outputs(model, prompts()[0])
    loss = sum((hidden @ heads.unembedding.T).logsumexp(-1).sum() for hidden in heads(states))
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in heads.parameters())
    assert all(weight.grad is None for weight in model.parameters()), "norm and unembedding are frozen"
    torch.optim.SGD(heads.parameters(), 0.1).step()
    for name, weight in model.named_parameters():
        assert_same_bits(weight.detach(), before[name].detach())


def test_gradients_reach_the_backbone_where_it_is_trained_too() -> None:
    model = head_model()
    heads = trained_heads(model, [2], "transformer", "weighted")
    out = heads(heads.layer_outputs(model, prompts()[0]))
    out[0].sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().max() > 0
    assert model.model.norm.weight.grad is None
    assert model.lm_head.weight.grad is None


def test_refusals() -> None:
    def refusal(model: object, horizons: list[int], **options: object) -> str:
        with pytest.raises((ValueError, TypeError)) as refused:
            MTPHeads.from_model(model, horizons, **options)
        return str(refused.value)

    model = head_model()
    usual = (
        "MTPHeads: model must be a causal decoder with at least two layers, rotary positions, a final norm and an LM "
        "head, as Llama and Qwen2 are, got "
    )
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2}
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, state_size=4))
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=2))
    assert refusal(mamba, [2]) == usual + "MambaForCausalLM"
    assert refusal(gpt2, [2]) == usual + "GPT2LMHeadModel"
    assert refusal(model.model, [2]) == usual + "LlamaModel"
    assert refusal(head_model(layers=1), [2]) == usual + "LlamaForCausalLM"
    assert refusal(torch.nn.Linear(2, 2), [2]) == ("MTPHeads: model must be a transformers PreTrainedModel, got Linear")
    ascending = "MTPHeads: horizons must be different whole numbers from 1, ascending, got "
    for horizons in ([], [0], [2, 2], [3, 2], [2.0]):
        assert refusal(model, horizons) == ascending + str(horizons)
    assert refusal(model, [2], kind="linear") == (
        "MTPHeads: kind must be 'transformer', 'mlp', 'sequential' or 'prefix', got 'linear'"
    )
    for kind in ("sequential", "prefix"):
        assert refusal(model, [2, 4], kind=kind) == (
            f"MTPHeads: horizons of {kind} heads must be 2, 3, ..., got [2, 4]"
        )
        assert refusal(model, [2], kind=kind, hidden_states="weighted") == (
            f"MTPHeads: hidden_states of {kind} heads must be 'last', got 'weighted'"
        )
    assert refusal(model, [2], hidden_states="all") == (
        "MTPHeads: hidden_states must be 'last' or 'weighted', got 'all'"
    )
    assert refusal(model, [2], width=8) == (
        "MTPHeads: width is for kinds 'mlp', 'sequential' and 'prefix', "
        "a transformer head has the sizes of the final layer"
    )
    assert refusal(model, [2], kind="mlp", width=0) == "MTPHeads: width must be from 1 to 1048576, got 0"
