"""Small random models of the families that tree attention is checked on, the same models as oracles, and prompts and
trees for them."""

from copy import deepcopy
from random import Random

import torch
import transformers
from tiny_model import SIZES
from torch import Tensor
from transformers import PreTrainedModel

from mtp_ext import TokenTree
from mtp_ext.integrations.tree_attention import NAME
from mtp_ext.testing import error_budget

FAMILIES = ("llama", "qwen2", "gemma2", "gpt_oss")
WINDOW = 6  # of every second layer of the last two
LENGTHS = [20, 13, 7]  # of prompts; only the first two leave the window


def tree_model(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same weights each time, with heads of a size that the op takes."""
    sizes = SIZES | {"head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3}
    if family == "gemma2":
        sizes |= {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}
    if family == "gpt_oss":
        sizes |= {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": ROPE}
    config = transformers.CONFIG_MAPPING[family](**sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model.to(dtype)


ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def oracle_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64, with eager attention."""
    oracle = deepcopy(model).double()
    oracle.set_attn_implementation("eager")
    if model.config.model_type == "gpt_oss":
        oracle.set_experts_implementation("eager")  # the other one has no float64
    return oracle


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
    eager attention in float32 leaves over all tokens: those of a few alone may happen to be rounded well."""
    oracle = oracle_of(eager)
    expected, exact = ([logits_of(m, sequence) for sequence in sequences] for m in (eager, oracle))
    budget = error_budget(torch.cat(expected), torch.cat(exact), scale=0)
    asked = torch.cat([logits[-n:] for logits, n in zip(exact, last, strict=True)])
    worst = (actual.double() - asked).abs().max().item()
    assert worst <= budget, f"error {worst:.3g} is over the budget of {budget:.3g}"


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
