"""`prepare` takes nothing on trust: what a pass of ours says is compared with the model, and a pass that is wrong
somewhere is not used. And what it refuses."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from lean_models import lean_model
from tiny_model import SIZES
from transformers import PreTrainedModel
from tree_models import assert_nodes_are_sequences, prompts, random_tree, tree_model

from mtp_ext.decoding import exchange, prepare
from mtp_ext.decoding import lean_model as lean
from mtp_ext.decoding.lean_layer import LeanLayer
from mtp_ext.decoding.linear import Linear
from mtp_ext.integrations import tree_attention as integration

ROUNDING = r"[0-9.e+-]+ from the model's logits, where rounding explains [0-9.e-]+"


def attention(**changes: Any) -> Callable[[LeanLayer], LeanLayer]:
    return lambda layer: replace(layer, attention=replace(layer.attention, **changes))


def without_bias(name: str) -> Callable[[LeanLayer], LeanLayer]:
    return lambda layer: replace(layer, **{name: replace(getattr(layer, name), bias=None)})


@pytest.mark.parametrize(
    ("family", "fault"),
    [
        ("llama", attention(scale=0.26)),
        ("llama", without_bias("down")),
        ("llama", lambda layer: replace(layer, mlp_norm=layer.attention_norm)),
        ("llama", lambda layer: replace(layer, activation=torch.nn.functional.gelu)),
        ("mistral", attention(window=None)),
        ("qwen2", without_bias("qkv")),
        ("qwen2", attention(rotates=False)),
        ("qwen3", attention(head_norm=None)),
        ("smollm3", attention(rotates=True)),
        ("gemma2", attention(softcap=0.0)),
        ("gemma2", lambda layer: replace(layer, after_mlp=None)),
    ],
)
def test_one_wrong_layer_is_noticed(
    monkeypatch: pytest.MonkeyPatch, family: str, fault: Callable[[LeanLayer], LeanLayer]
) -> None:
    read = lean.read_layer
    monkeypatch.setattr(lean, "read_layer", lambda *args: fault(read(*args)) if args[1] == 1 else read(*args))
    model = lean_model(family)
    prepared = prepare(model)
    assert re.fullmatch(
        r"transformers' pass, 15 linear layers stored in float32, multiplied in float32, "
        rf"since the lean pass was {ROUNDING}",
        prepared.how,
    )
    ids, _ = prompts()
    cache = prepared.new_cache(3, 40)
    prepared.prefill(ids, cache)
    nodes = prepared.run_tree(random_tree([3, 2, 1], "cpu"), cache).logits()
    assert_nodes_are_sequences(nodes, lean_model(family), random_tree([3, 2, 1], "cpu"), list(ids))


def test_wrong_linear_layers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input: torch.Tensor) -> torch.Tensor:
        return 1.0001 * self._linear(input)

    monkeypatch.setattr(exchange._Forward, "__call__", forward)
    model = tree_model("gpt_oss")
    prepared = prepare(model)
    assert re.fullmatch(
        "transformers' pass with its own linear layers, since the lean pass does not know gpt_oss, "
        f"and with packed linear layers it was {ROUNDING}",
        prepared.how,
    )
    assert prepared.packed_bytes == 0
    assert not exchange.is_exchanged(model)


def test_wrong_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = integration.tree_attention
    monkeypatch.setattr(
        integration, "tree_attention", lambda *args, **options: attend(*args, **options | {"scale": 0.2})
    )
    model = tree_model("gpt_oss")
    message = "prepare: model must say the same with tree attention as with its own, got GptOssForCausalLM, which was "
    with pytest.raises(ValueError, match=message + ROUNDING):
        prepare(model)
    assert not exchange.is_exchanged(model)


def test_an_interruption_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Linear, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Linear, "__call__", interrupt)
    model = tree_model("gpt_oss")
    with pytest.raises(KeyboardInterrupt):
        prepare(model)
    assert not exchange.is_exchanged(model)


# ---- What the lean pass is not for ------------------------------------------------------------------------


def phi3() -> PreTrainedModel:
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES | {"hidden_size": 64}, pad_token_id=0)).eval()


def with_own_linear() -> PreTrainedModel:
    class LoraLinear(torch.nn.Linear):
        pass

    model = lean_model("llama")
    model.model.layers[1].mlp.down_proj.__class__ = LoraLinear
    return model


def with_hook() -> PreTrainedModel:
    model = lean_model("llama")
    model.model.layers[0].register_forward_hook(lambda *_: None)
    return model


def of_another_module() -> PreTrainedModel:
    class OwnLlama(transformers.LlamaForCausalLM):
        pass

    model = lean_model("llama")
    model.__class__ = OwnLlama
    return model


def with_dynamic_rope() -> PreTrainedModel:
    return lean_model("qwen2", rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})


@pytest.mark.parametrize(
    ("make", "linears", "why"),
    [
        (phi3, 9, "the lean pass does not know phi3"),
        (with_own_linear, 14, "a linear layer is a LoraLinear of torch.float32"),
        (with_hook, 15, "modules of the model have hooks, which the lean pass would not run"),
        (of_another_module, 15, "OwnLlama is not transformers' own llama"),
        (with_dynamic_rope, 15, "the lean pass does not know rope of type dynamic"),
    ],
)
def test_other_models_run_by_their_own_pass(make: Callable[[], PreTrainedModel], linears: int, why: str) -> None:
    model = make()
    with prepare(model) as prepared:
        assert prepared.how == (
            f"transformers' pass, {linears} linear layers stored in float32, multiplied in float32, since {why}"
        )
        name, size = type(model).__name__, f"{prepared.packed_bytes / 1e6:.0f} MB"
        assert repr(prepared) == f"PreparedModel({name}: {prepared.how}, {size} packed)"
    assert not exchange.is_exchanged(model)


# ---- Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), {}, TypeError, "model must be a transformers PreTrainedModel, got Linear"),
        (
            lambda: lean_model("llama").train(),
            {},
            ValueError,
            "model must be in evaluation mode; call model.eval()",
        ),
        (
            lambda: prepare(tree_model("gpt_oss")).model,
            {},
            ValueError,
            "model is prepared already; call restore() of the PreparedModel first",
        ),
        (
            lambda: transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=256, n_layer=1)).eval(),
            {},
            ValueError,
            "model must be a causal decoder whose layers all attend through transformers' attention interface, over "
            "all tokens or a sliding window, with heads of 16 to 256 numbers, got BloomForCausalLM",
        ),
        (
            lambda: lean_model("llama"),
            {"storage": "float16"},
            ValueError,
            'storage must be "auto", "float32" or "bfloat16", got \'float16\'',
        ),
        (
            lambda: lean_model("llama"),
            {"arithmetic": "tf32"},
            ValueError,
            'arithmetic must be "float32" or "bfloat16", got \'tf32\'',
        ),
        (
            lambda: lean_model("llama"),
            {"storage": "float32", "arithmetic": "bfloat16"},
            ValueError,
            'storage must be "bfloat16" or "auto" for bfloat16 arithmetic, got \'float32\'',
        ),
    ],
)
def test_refused_models(make: Callable[[], Any], options: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape('prepare: ' + message)}$"):
        prepare(make(), **options)


def test_weights_that_bfloat16_does_not_hold() -> None:
    for options in ({"storage": "bfloat16"}, {"arithmetic": "bfloat16"}):
        with pytest.raises(ValueError, match=r"^pack_linear: storage bfloat16 needs weights that are bfloat16 numbers"):
            prepare(lean_model("llama"), **options)
