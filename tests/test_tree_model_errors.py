"""Every refusal of models that run by tree attention, word for word."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache
from tree_models import tree_model, with_trees

from mtp_ext import TokenTree
from mtp_ext.integrations.cache_argument import cache_option
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.integrations.tree_model import chain_forward, sibling_forward, tree_forward

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
        model(IDS, **cache_option(type(model).forward, cache))
    refused(
        "mtp_tree: attention_mask must cover all 8 tokens, those in the cache included, got [1, 4]",
        lambda: model(IDS, attention_mask=ONE, **cache_option(type(model).forward, cache)),
    )
    static = transformers.StaticCache(model.config, max_cache_len=8)
    refused(
        "mtp_tree: the cache must grow with its tokens, got one of fixed shape, such as StaticCache",
        lambda: model(IDS, **cache_option(type(model).forward, static)),
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
        lambda: model(IDS, **cache_option(type(model).forward, TreeCache(model, 1, 8))),
    )


@torch.no_grad()
def test_a_cache_that_the_model_has_filled_knows_nothing_of_padding() -> None:
    model = with_trees(tree_model("llama"))
    cache = TreeCache(model, 2, 16)
    model(IDS.expand(2, 4), **cache_option(type(model).forward, cache))
    refused(
        "tree_forward: cache must be filled by chain_forward, got one that the model itself has written to",
        lambda: tree_forward(model, TokenTree(IDS[:, :1].expand(2, 1), -torch.ones(2, 1).long()), cache),
    )
    cache.reset()
    chain_forward(model, IDS.expand(2, 4), cache, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    refused(
        "mtp_tree: only chain_forward and tree_forward take requests of different lengths, got [4, 2]",
        lambda: model(IDS.expand(2, 4), **cache_option(type(model).forward, cache)),
    )
