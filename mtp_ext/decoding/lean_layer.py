"""One decoder layer of the Llama family, with nothing around its products:

    h += out(attention(rope(qkv(norm(h)))));   h += down(act(gate(norm(h))) * up(norm(h)))

Hidden states are float32 [rows, hidden], a row for each node of each request; q, k and v come from one product, gate
and up from another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

from mtp_ext.decoding.lean_rope import Rotation
from mtp_ext.decoding.linear import Linear
from mtp_ext.integrations.tree_attention import TreePass
from mtp_ext.kv_cache import append_
from mtp_ext.tree_attention import tree_attention


class Norm:
    """x / sqrt(mean(x^2) + eps) * weight, as x / hypot(|x|, sqrt(n eps)) * sqrt(n) weight: four torch ops where
    `rms_norm` is ten, which saves a sixth of what a pass of one node spends outside its products.

    Args:
        weight: float32 [..., n], for x [..., n].
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps
        self._gain = weight * weight.shape[-1] ** 0.5
        self._floor = weight.new_tensor((weight.shape[-1] * eps) ** 0.5)

    @classmethod
    def read(cls, module: Any) -> "Norm":
        """Of a family's RMSNorm module; Gemma's are centred on one."""
        weight = module.weight.detach().float()
        if type(module).__name__.startswith("Gemma"):
            return cls(1.0 + weight, module.eps)
        return cls(weight, module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self._floor)).mul_(self._gain)


@dataclass(frozen=True, eq=False)
class Attention:
    """What attention does with the heads of qkv [rows, (heads + 2 kv_heads) head_dim].

    Attributes:
        head_norm: of [heads + kv_heads, head_dim], where queries and keys are normalised by head.
        rotates: whether positions come in by rotation.
        scale, softcap, window: as in `tree_attention`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    head_norm: Norm | None
    rotates: bool
    scale: float
    softcap: float
    window: int | None

    def __call__(self, qkv: Tensor, rotation: Rotation, key: Tensor, value: Tensor, rows: TreePass) -> Tensor:
        """[rows, heads * head_dim] in the cache's dtype; writes the nodes' keys and values into the cache."""
        batch = rows.prefix_lengths.shape[0]
        heads = qkv.view(batch, -1, self.heads + 2 * self.kv_heads, self.head_dim)
        seen, new_value = heads.split_with_sizes((self.heads + self.kv_heads, self.kv_heads), 2)
        if self.head_norm is not None:
            seen = self.head_norm(seen)
        if self.rotates:
            seen = rotation(seen)
        if key.dtype != torch.float32:
            seen, new_value = seen.to(key.dtype), new_value.to(key.dtype)
        query, new_key = seen.split_with_sizes((self.heads, self.kv_heads), 2)
        append_(key, value, new_key, new_value, rows.prefix_lengths, node_counts=rows.node_counts)
        out = tree_attention(
            query,
            key,
            value,
            rows.ancestors,
            rows.prefix_lengths,
            node_counts=rows.node_counts,
            starts=rows.starts,
            scale=self.scale,
            softcap=self.softcap,
            window=self.window,
        )
        return out.view(qkv.shape[0], -1)


@dataclass(frozen=True, eq=False)
class LeanLayer:
    """One decoder layer. Gemma normalises what attention and MLP give, too, before it is added."""

    attention_norm: Norm
    qkv: Linear
    attention: Attention
    out: Linear
    after_attention: Norm | None
    mlp_norm: Norm
    gate_up: Linear
    activation: Callable[[Tensor], Tensor]
    down: Linear
    after_mlp: Norm | None

    def __call__(self, hidden: Tensor, rotation: Rotation, key: Tensor, value: Tensor, rows: TreePass) -> None:
        """Adds to `hidden`, float32 [rows, hidden], in place; `key` and `value` are this layer's cache."""
        attended = self.out(self.attention(self.qkv(self.attention_norm(hidden)), rotation, key, value, rows))
        hidden += attended if self.after_attention is None else self.after_attention(attended)
        gate, up = self.gate_up(self.mlp_norm(hidden)).chunk(2, -1)
        fed = self.down(self.activation(gate).mul_(up))
        hidden += fed if self.after_mlp is None else self.after_mlp(fed)

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.qkv, self.out, self.gate_up, self.down

    def with_arithmetic(self, arithmetic: str) -> "LeanLayer":
        qkv, out, gate_up, down = (linear.with_arithmetic(arithmetic) for linear in self.linears)
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


def projections(layer: Any) -> list[list[nn.Linear]]:
    """The linear layers of a transformers decoder layer: those of a list read the same input."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]


def read_layer(layer: Any, index: int, config: Any, storage: torch.dtype | None) -> LeanLayer:
    """The decoder layer of a transformers model, its weights packed, in float32 arithmetic."""
    qkv, out, gate_up, down = (Linear.pack(group, storage, "float32") for group in projections(layer))
    before_mlp, after_attention, after_mlp = layer.post_attention_layernorm, None, None
    if hasattr(layer, "pre_feedforward_layernorm"):  # then the other one comes before the sum
        before_mlp, after_attention = layer.pre_feedforward_layernorm, Norm.read(layer.post_attention_layernorm)
        after_mlp = Norm.read(layer.post_feedforward_layernorm)
    return LeanLayer(
        Norm.read(layer.input_layernorm),
        qkv,
        _read_attention(layer.self_attn, index, config),
        out,
        after_attention,
        Norm.read(before_mlp),
        gate_up,
        partial(silu, inplace=True) if isinstance(layer.mlp.act_fn, SiLUActivation) else layer.mlp.act_fn,
        down,
        after_mlp,
    )


def _read_attention(module: Any, index: int, config: Any) -> Attention:
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, module.head_dim
    head_norm = None
    if hasattr(module, "q_norm"):
        query, key = Norm.read(module.q_norm), Norm.read(module.k_norm)
        weight = torch.cat([query.weight.expand(heads, -1), key.weight.expand(kv_heads, -1)])
        head_norm = Norm(weight, query.eps)
    layer_types = getattr(config, "layer_types", None)
    slides = layer_types is None or layer_types[index] == "sliding_attention"
    return Attention(
        heads,
        kv_heads,
        head_dim,
        head_norm,
        rotates=bool(getattr(module, "use_rope", True)),
        scale=module.scaling,
        softcap=getattr(module, "attn_logit_softcapping", None) or 0.0,
        window=getattr(config, "sliding_window", None) if slides else None,
    )
