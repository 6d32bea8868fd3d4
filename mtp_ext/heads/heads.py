"""MTP heads: further tokens from the hidden states of a model that was trained for the next one."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mtp_ext.heads import storage
from mtp_ext.heads.backbone import Backbone, LayerOutputs
from mtp_ext.heads.config import SEQUENTIAL, HeadsConfig
from mtp_ext.heads.mlp_head import MLPHead
from mtp_ext.heads.prefix_head import Prefix, PrefixHead, TextReader
from mtp_ext.heads.sequential_head import SequentialHead
from mtp_ext.heads.transformer_head import copy_final_layer
from mtp_ext.mix_layers import mix_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST_WEIGHT = 0.1  # of weighted hidden states
_BLOCKS = {"mlp": MLPHead, "sequential": SequentialHead, "prefix": PrefixHead}
_WIDTHS = {"mlp": 1, "sequential": 2, "prefix": 2}  # by kind, in hidden sizes


class MTPHeads(nn.Module):
    """Heads for several horizons; the head of horizon n predicts x[t+n] given x[..t].

    A `transformer` head is a decoder layer like the model's own final one, reading the layer before it, and followed
    by the model's final norm: the model's depth stays as it is, and the head attends to earlier tokens. An `mlp` head
    is a residual block on the last hidden state (after the final norm, as the LM head reads it): cheap to draft with.
    A `sequential` head is one that follows the head before it and also reads the token before the one it predicts,
    which is known by the time it drafts. A `prefix` head is a sequential one that also attends to the text so far, by
    what several layers of the model gave for it: it drafts best.

    With `hidden_states="weighted"` a head reads softmax(w / T) . Z instead, a mixture of the outputs of layers 1 to
    L-1 by weights of its own, T = 0.1, which start as 0.1; an mlp head reads it through the model's final norm.

    Final norm and unembedding are the model's own: borrowed, frozen, and not among the parameters.

    Example:
        >>> heads = MTPHeads.from_model(model, horizons=[2, 3], kind="mlp")
        >>> states = heads.layer_outputs(model, input_ids)
        >>> logits = [hidden @ heads.unembedding.T for hidden in heads(states)]  # of x[t+2] and of x[t+3]

    Attributes:
        config: what they are, and of which model.
        draft_tokens: int64 [tokens], ascending, those that drafts are made of; None: all. See `draft_from`.

    Source: arXiv 2502.09419; sequential and prefix heads: arXiv 2402.05109.
    """

    config: HeadsConfig
    draft_tokens: Tensor | None

    def __init__(self, backbone: Backbone, config: HeadsConfig, *, copies: int = 0) -> None:
        """Heads with weights from torch's generator, the first `copies` transformer heads as copies.

        `from_model` and `from_pretrained` are the ways in.
        """
        super().__init__()
        self.config = config
        self._borrowed = (backbone,)  # in a tuple: no submodule
        like = backbone.unembedding
        count, hidden = len(config.horizons), like.shape[1]
        if config.width is None:
            heads = [copy_final_layer(backbone, index, initialise=index >= copies) for index in range(count)]
        else:
            block = _BLOCKS[config.kind]
            heads = [block(hidden, config.width, device=like.device, dtype=like.dtype) for _ in range(count)]
        self.heads = nn.ModuleList(heads)
        if config.kind == "prefix":
            self.reader = TextReader(hidden, len(config.layers), device=like.device, dtype=like.dtype)
        if config.hidden_states == "weighted":
            weights = like.new_full((count, len(config.layers)), _FIRST_WEIGHT, dtype=torch.float32)
            self.layer_weights = nn.Parameter(weights)
        tokens = None if config.draft_tokens is None else torch.arange(config.draft_tokens, device=like.device)
        self.register_buffer("draft_tokens", tokens)

    @classmethod
    def from_model(
        cls,
        model: "PreTrainedModel",
        horizons: Sequence[int],
        *,
        kind: str = "transformer",
        hidden_states: str = "last",
        width: int | None = None,
        seed: int = 0,
    ) -> "MTPHeads":
        """New heads for a model, in its dtype and on its device; the model stays as it is.

        Args:
            model: a causal transformers model whose layers are called as Llama's are.
            horizons: how many tokens ahead each head predicts: 2 is the token after the next one.
            kind: "transformer" (the first one starts as the model's own final layer, the others with random weights
                of the model's own initialiser), "mlp", "sequential" or "prefix" (each starts by predicting the next
                token).
            hidden_states: "last" or "weighted".
            width: of the hidden layer of an mlp head, by default the model's hidden size, or of a sequential or prefix
                head, twice that.
            seed: of the random weights.

        Raises:
            TypeError: not a transformers model.
            ValueError: an unknown architecture, or an argument that is none of these.
        """
        backbone = Backbone(model)
        if kind == "transformer" and width is not None:
            raise ValueError(
                "MTPHeads: width is for kinds 'mlp', 'sequential' and 'prefix', "
                "a transformer head has the sizes of the final layer"
            )
        if kind in _WIDTHS and width is None:
            width = _WIDTHS[kind] * backbone.unembedding.shape[1]
        config = HeadsConfig(tuple(horizons), kind, hidden_states, width, backbone.describe())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(backbone, config, copies=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "MTPHeads":
        """Copies the heads, not the model that they borrow from."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        memo[id(self._borrowed)] = self._borrowed
        vars(new).update(deepcopy(vars(self), memo))
        return new

    @property
    def unembedding(self) -> Tensor:
        """[vocab, hidden]: the model's own, without a gradient; `forward(...)[i] @ unembedding.T` are logits."""
        return self._backbone.unembedding

    def bind(self, model: "PreTrainedModel") -> "MTPHeads":
        """From now on these are heads of this model, such as the one they were trained with jointly."""
        self._borrowed = (Backbone(model),)
        self.config = self.config.with_base(self._backbone.describe())
        return self

    def draft_from(self, tokens: Tensor) -> "MTPHeads":
        """From now on drafts are made of these tokens alone: a draft then reads these rows of the unembedding, not
        all. A few thousand that are frequent draft almost as well as all, and the product is most of a draft's cost.

        Args:
            tokens: int64 [tokens], ascending.

        Raises:
            ValueError: something else.

        Source: arXiv 2502.14856.
        """
        check_draft_tokens(tokens, self.config.base.vocab)
        self.draft_tokens = tokens.to(self.unembedding.device)
        self.config = replace(self.config, draft_tokens=len(tokens))
        return self

    def layer_outputs(
        self, model: "PreTrainedModel", input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> LayerOutputs:
        """What the heads read, from one pass of the model: with a gradient where the caller has not turned it off.

        Args:
            model: the heads' own, also with adapters by peft.
            input_ids: int64 [batch, tokens].
            attention_mask: [batch, tokens], 0 for padding.
        """
        return Backbone(model).layer_outputs(self.config.layers, input_ids, attention_mask)

    def new_caches(self) -> DynamicCache:
        """Empty keys and values for `forward`: a layer for each transformer head."""
        return DynamicCache()

    def forward(
        self,
        states: LayerOutputs,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        caches: DynamicCache | None = None,
    ) -> list[Tensor]:
        """The heads' hidden states, after the final norm: logits are `hidden @ unembedding.T`.

        Args:
            states: from `layer_outputs`.
            position_ids: int64 [batch, tokens]; default: those that follow the tokens in `caches`.
            attention_mask: [batch, tokens in caches and states], 0 for padding; only transformer heads need it, and
                prefix heads do not take padding before a text.
            caches: from `new_caches`; states are then of the tokens behind those it holds. Only transformer heads have
                them; prefix heads have `read`.

        Returns:
            Of each head [batch, tokens, hidden]; of a sequential or prefix one, those of a text's last n - 1 tokens
            mean nothing.
        """
        if self.config.kind in SEQUENTIAL:
            return self._along(states)
        return self.from_layers(states.layers, position_ids=position_ids, attention_mask=attention_mask, caches=caches)

    def from_layers(
        self,
        layers: Sequence[Tensor],
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        caches: DynamicCache | None = None,
    ) -> list[Tensor]:
        """`forward` of the outputs of the layers `config.layers`, [batch, tokens, hidden] each."""
        inputs = self._inputs(layers)
        if self.config.kind == "mlp":
            return [head(hidden) for head, hidden in zip(self.heads, inputs, strict=True)]
        backbone, like = self._backbone, inputs[0]
        if position_ids is None:
            seen = 0 if caches is None else caches.get_seq_length()
            position_ids = torch.arange(seen, seen + like.shape[1], device=like.device)[None]
        options = {
            "attention_mask": backbone.causal_mask(like, position_ids, attention_mask, caches),
            "position_ids": position_ids,
            "position_embeddings": backbone.rotation(like, position_ids),
            **backbone.cache_options(caches),
        }
        outputs = [head(hidden, **options) for head, hidden in zip(self.heads, inputs, strict=True)]
        return [backbone.final_norm(out if isinstance(out, Tensor) else out[0]) for out in outputs]

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes heads.safetensors and, to be read by people, config.json; a file appears whole or not at all."""
        storage.save(Path(folder), self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: "PreTrainedModel") -> "MTPHeads":
        """Heads that `save_pretrained` wrote, in the model's dtype and on its device, in evaluation mode.

        Args:
            folder: with heads.safetensors.
            model: the one they were made for.

        Raises:
            FileNotFoundError: no heads there.
            ValueError: a file that is cut short, or heads of another model; the message says how it differs.
        """
        config, weights = storage.load(Path(folder))
        backbone = Backbone(model)
        storage.check_base(Path(folder), config.base, backbone.describe())
        with torch.random.fork_rng():
            heads = cls(backbone, config, copies=len(config.horizons))
        storage.fill(Path(folder), heads, weights)
        if heads.draft_tokens is not None:
            check_draft_tokens(heads.draft_tokens, config.base.vocab)
        return heads.eval()

    def read(self, layers: Sequence[Tensor], tokens: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """What prefix heads keep of a text, keys and values, [batch, key heads, places, 64] each.

        Args:
            layers: outputs of the layers `config.layers`, [batch, places, hidden] each.
            tokens: int64 [batch, places]: those behind these places, x[s+1] for x[s].
            first: where in the text the first of these places is.
        """
        keys, values = self.reader(layers, self.unembedding[tokens], first)
        return keys, values

    def first_hidden(self, layers: Sequence[Tensor]) -> Tensor:
        """What the first sequential or prefix head follows, [..., hidden]: the model's last hidden state, and for$
        heads what they read in its inner layers besides.

        Args:
            layers: outputs of the layers `config.layers`, [..., hidden] each.
        """
        if self.config.kind == "sequential":
            return layers[-1]
        hidden: Tensor = self.reader.first_hidden(layers)
        return hidden

    def follow(self, level: int, hidden: Tensor, tokens: Tensor, prefix: Prefix | None = None) -> Tensor:
        """What sequential head `level`, counted from 0, says after one more token: the hidden state for x[t+2+level].

        Args:
            hidden: [..., hidden]: of level 0 `first_hidden` at t, else that of the level before; of prefix heads
                [batch, queries, hidden].
            tokens: int64 [...]: x[t+1+level].
            prefix: of the text up to t, for prefix heads.

        Returns:
            [..., hidden]: logits are `follow(...) @ unembedding.T`.
        """
        head: Any = self.heads[level]
        embedded = self.unembedding[tokens]
        if prefix is not None:
            hidden = head.look_back(hidden, embedded, prefix, level)
        out: Tensor = head(hidden, embedded)
        return out

    def _along(self, states: LayerOutputs) -> list[Tensor]:
        """Of each sequential or prefix head, at all places of texts."""
        hidden, tokens, prefix, outputs = self.first_hidden(states.layers), states.input_ids, None, []
        for level in range(len(self.heads)):
            tokens = nn.functional.pad(tokens[:, 1:], (0, 1))
            if level == 0 and self.config.kind == "prefix":
                prefix = Prefix(
                    *self.read(states.layers, tokens), torch.arange(tokens.shape[1], device=tokens.device)[None]
                )
            hidden = self.follow(level, hidden, tokens, prefix)
            outputs.append(hidden)
        return outputs

    @property
    def _backbone(self) -> Backbone:
        return self._borrowed[0]

    def mixtures(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Of each head softmax(w / T) . Z, [batch, tokens, hidden], for weighted hidden states."""
        return list(mix_layers(layers, (self.layer_weights.float() / self.config.temperature).softmax(-1)).unbind())

    def _inputs(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """What each head reads, [batch, tokens, hidden]."""
        if self.config.hidden_states == "last":
            return [layers[0]] * len(self.heads)
        mixtures = self.mixtures(layers)
        return mixtures if self.config.kind == "transformer" else list(map(self._backbone.final_norm, mixtures))


def check_draft_tokens(tokens: Tensor, vocab: int) -> None:
    """Raises a ValueError for what `MTPHeads.draft_from` refuses."""
    right = tokens.dim() == 1 and len(tokens) > 0 and tokens.dtype == torch.int64
    if not right or not (tokens[0] >= 0 and tokens[-1] < vocab and (tokens.diff() > 0).all()):
        raise ValueError(
            f"MTPHeads: draft_tokens must be int64 [tokens], ascending and below {vocab}, "
            f"got {tokens.dtype} {list(tokens.shape)}: {tokens.flatten()[:8].tolist()}, ..."
        )
