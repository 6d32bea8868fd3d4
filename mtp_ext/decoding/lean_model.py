"""A forward pass of the Llama family with little around its products: a `Target` that reads the weights of a Hugging
Face model and leaves the model as it is."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from mtp_ext.decoding.lean_layer import LeanLayer, Norm, projections, read_layer
from mtp_ext.decoding.lean_rope import RopeTable
from mtp_ext.decoding.linear import Linear
from mtp_ext.decoding.target import best_tokens, check_prompts, check_tree, position_limit
from mtp_ext.integrations.tree_attention import TreePass
from mtp_ext.integrations.tree_model import check_tokens, plan_chain
from mtp_ext.kv_cache import KVCache
from mtp_ext.tree import TokenTree

# Those whose layers are exactly what `LeanLayer` computes, as of transformers 5.23.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2")
# Frequencies that follow from the configuration alone; the others change with the length of the sequence.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def why_not_lean(model: Any) -> str | None:
    """Why the lean pass is not for this model; None where it is."""
    family = model.config.model_type
    if family not in FAMILIES:
        return f"the lean pass does not know {family}"
    if type(model).__module__ != f"transformers.models.{family}.modeling_{family}":
        return f"{type(model).__name__} is not transformers' own {family}"
    if (rope_type := model.config.rope_parameters["rope_type"]) not in _ROPE_TYPES:
        return f"the lean pass does not know rope of type {rope_type}"
    linears = [linear for layer in model.model.layers for group in projections(layer) for linear in group]
    for linear in [*linears, model.get_output_embeddings()]:
        if type(linear) is not nn.Linear or linear.weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"a linear layer is a {type(linear).__name__} of {linear.weight.dtype}"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "modules of the model have hooks, which the lean pass would not run"
    return None


class LeanPass:
    """Hidden states of a pass, float32 [batch, nodes, hidden], and the model whose head reads them."""

    def __init__(self, hidden: Tensor, model: "LeanModel", layer_outputs: Sequence[Tensor]) -> None:
        self.hidden = hidden
        self.layer_outputs = layer_outputs
        self._model = model

    def logits(self) -> Tensor:
        return self._model.logits(self.hidden)

    def best_tokens(self) -> Tensor:
        # Softcapped logits may be equal where the outputs of the head are not.
        return self._model.head.best(self.hidden) if self._model.softcap is None else best_tokens(self.logits())


class LeanModel:
    """A model of `FAMILIES` as a target, in float32: hidden states, attention and logits, whatever the storage.

    Args:
        model: for which `why_not_lean` is None. Its embedding table and small weights are read where they are.
        storage: of packed weights, as in `pack_linear`; None: bfloat16 for each weight that it holds exactly.
    """

    def __init__(self, model: Any, storage: torch.dtype | None) -> None:
        config = model.config
        self.vocab: int = config.vocab_size
        self.max_positions = position_limit(model)
        self.dtype = torch.float32
        self.device: torch.device = model.device
        self.layers: list[LeanLayer] = [
            read_layer(layer, index, config, storage)
            for index, layer in enumerate(model.model.layers[: config.num_hidden_layers])
        ]
        self.norm = Norm.read(model.model.norm)
        self.head = Linear.pack([model.get_output_embeddings()], storage, "float32")
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._model: PreTrainedModel = model
        self._table: nn.Embedding = model.get_input_embeddings()
        self._rope = RopeTable(model.model.rotary_emb, self.layers[0].attention.head_dim)
        self._kept: Sequence[int] = ()

    def with_arithmetic(self, arithmetic: str) -> "LeanModel":
        """The same weights; with "bfloat16", products and the cache are in bfloat16."""
        model = copy(self)
        model.layers = [layer.with_arithmetic(arithmetic) for layer in self.layers]
        model.head = self.head.with_arithmetic(arithmetic)
        model.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[arithmetic]
        return model

    def keeping(self, layers: Sequence[int]) -> "LeanModel":
        model = copy(self)
        model._kept = layers
        return model

    def draft_head(self, tokens: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        model = copy(self)
        model.head = self.head.rounded(tokens)
        return model.logits

    @property
    def linears(self) -> list[Linear]:
        return [*(linear for layer in self.layers for linear in layer.linears), self.head]

    # ---- What a decoding loop calls -----------------------------------------------------------------------

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        cache = KVCache(batch, capacity, device=self.device)
        for layer in self.layers:
            cache.add_layer(layer.attention.kv_heads, layer.attention.head_dim, dtype=self.dtype)
        return cache

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> LeanPass:
        op = "prefill"
        check_tokens(op, "input_ids", input_ids, self._model, cache.batch)
        chain = plan_chain(op, input_ids, attention_mask, cache)
        check_prompts(op, chain, cache, self.max_positions)
        hidden, kept = self._run(op, input_ids, chain.positions, cache, chain.rows)
        chain.keep(cache)
        last = hidden[torch.arange(cache.batch, device=self.device), chain.ends - 1]
        return LeanPass(self.norm(last)[:, None], self, kept)

    @torch.no_grad()
    def run_tree(self, tree: TokenTree, cache: KVCache) -> LeanPass:
        op = "run_tree"
        check_tree(op, tree, cache, self.max_positions)
        tokens = tree.tokens.where(tree.parents != -2, 0)
        check_tokens(op, "tree.tokens", tokens, self._model, cache.batch)
        rows = TreePass(cache.lengths, tree.ancestors, tree.node_counts, cache.starts)
        positions = tree.position_ids(cache.lengths - cache.starts)
        hidden, kept = self._run(op, tokens, positions, cache, rows)
        return LeanPass(self.norm(hidden), self, kept)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden)
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)

    def _run(
        self, op: str, tokens: Tensor, positions: Tensor, cache: KVCache, rows: TreePass
    ) -> tuple[Tensor, list[Tensor]]:
        """float32 [batch, nodes, hidden], before the final norm, and the outputs of the layers to keep."""
        if len(cache.keys) < len(self.layers):
            raise ValueError(
                f"{op}: cache must come from new_cache, with {len(self.layers)} layers, got {len(cache.keys)}"
            )
        rotation = self._rope(positions, min(cache.capacity, self.max_positions))
        hidden = self._embed(tokens.flatten())
        states, kept = hidden.view(*tokens.shape, -1), []
        for number, (layer, key, value) in enumerate(zip(self.layers, cache.keys, cache.values, strict=False), 1):
            layer(hidden, rotation, key, value, rows)
            if number in self._kept:
                kept.append(states.clone() if number < len(self.layers) else self.norm(states))
        return states, kept

    def _embed(self, tokens: Tensor) -> Tensor:
        """A new float32 [rows, hidden]."""
        hidden = embedding(tokens, self._table.weight).float()
        scale = getattr(self._table, "embed_scale", None)  # Gemma's
        return hidden if scale is None else hidden.mul_(scale.float())
