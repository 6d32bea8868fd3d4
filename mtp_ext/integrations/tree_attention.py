"""`attn_implementation="mtp_tree"`: importing this module registers it with transformers.

Of the two registered functions the mask's is called once a pass for each kind of layer, before the first layer: it
does not build a [nodes, prefix] mask but says which rows of the cache the nodes see. The attention function is called
once a layer with what it returned. Keys and values are read where the cache has them, heads not repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import causal_mask_function

from mtp_ext.tree_attention import tree_attention

NAME = "mtp_tree"
# The keyword argument of `model(...)` by which a tree reaches the attention of every layer.
PASS_ARGUMENT = "tree_pass"


@dataclass
class TreePass:
    """Which rows of the cache the nodes of one forward pass see: arguments of `tree_attention`.

    Attributes:
        layers: how many layers have attended by it so far.
    """

    prefix_lengths: Tensor
    ancestors: Tensor | None = None
    node_counts: Tensor | None = None
    starts: Tensor | None = None
    layers: int = 0


@dataclass(frozen=True)
class CausalMask:
    """What a layer gets for its `attention_mask`: the rows seen, unless a `tree_pass` says more, and its window.

    Some models ask for the mask of a window of 0 which none of their layers uses; the op refuses it.
    """

    rows: TreePass
    window: int | None


def check_attention(op: str, config: PreTrainedConfig) -> None:
    """Raises unless a model of this configuration runs with tree attention."""
    if (attention := config._attn_implementation) != NAME:
        raise ValueError(
            f"{op}: model must run with attention {NAME!r}, got {attention!r}; "
            f"call model.set_attn_implementation({NAME!r})"
        )


def causal_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] = causal_mask_function,
    attention_mask: Tensor | None = None,
    *,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    config: Any = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> CausalMask:
    """The mask interface's function; transformers names and passes the arguments (see its `sdpa_mask`).

    Raises:
        ValueError: a mask that is not causal in this sense, padding inside a request, a cache of fixed shape.
    """
    if getattr(config, "output_attentions", False):
        _refuse_output_attentions()
    # `allow_is_causal_skip` is false in masks of other kinds and with anything laid over a causal one.
    if not allow_is_causal_skip or not (
        mask_function is causal_mask_function if local_size is None else _is_window(mask_function, local_size, device)
    ):
        raise ValueError(
            f"{NAME}: every mask must be causal, over all tokens or a sliding window, got another kind from "
            f"{getattr(config, 'model_type', 'the model')}: bidirectional, chunked, packed sequences or blocks"
        )
    tokens = q_offset + q_length
    if attention_mask is not None and attention_mask.shape[-1] != tokens:
        raise ValueError(
            f"{NAME}: attention_mask must cover all {int(tokens)} tokens, those in the cache included, "
            f"got {list(attention_mask.shape)}"
        )
    if isinstance(q_offset, Tensor) or kv_offset + kv_length != tokens:
        raise ValueError(f"{NAME}: the cache must grow with its tokens, got one of fixed shape, such as StaticCache")
    rows = TreePass(torch.full((batch_size,), q_offset - kv_offset, dtype=torch.int64, device=device))
    if attention_mask is not None:
        first, end = real_tokens(NAME, attention_mask)
        rows.starts = (first - kv_offset).clamp(min=0)
        rows.node_counts = (end - q_offset).clamp(0, q_length)
    return CausalMask(rows, local_size)


def real_tokens(op: str, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [batch] each: the first token of each request that is no padding, and the first padding behind it.

    Args:
        op: whose argument this is.
        attention_mask: [batch, tokens]; not 0 where there is a token, padding at the ends of a request only.

    Raises:
        ValueError: padding between tokens.
    """
    real = attention_mask != 0
    first = (real.cumsum(1) == 0).sum(1)
    end = real.shape[1] - (real.flip(1).cumsum(1) == 0).sum(1)
    end = end.maximum(first)  # of nothing but padding, which may be the first part of a prompt
    if (gap := end - first != real.sum(1)).any():
        raise ValueError(
            f"{op}: attention_mask must hide tokens at the ends of a request only, "
            f"got a gap in attention_mask[{int(gap.nonzero()[0])}]"
        )
    return first, end


def _is_window(mask_function: Callable[..., Tensor], window: int, device: torch.device | str) -> bool:
    """Whether this is a causal sliding window, not chunks: tried on two neighbours, as one may end its chunk."""
    query = torch.tensor([[window], [window + 1]], device=device)
    key = query + torch.tensor([1, 0, 1 - window, -window], device=device)
    return torch.equal(mask_function(0, 0, query, key), (key <= query) & (key > query - window))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: CausalMask | Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool | None = False,
    tree_pass: TreePass | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention interface's function; transformers names and passes the arguments.

    Args:
        query: [batch, heads, nodes, head_dim].
        key, value: [batch, kv_heads, rows, head_dim], the cache and this pass's nodes behind the prefix.
        attention_mask: from `causal_mask`.
        s_aux: [heads], sinks.
        tree_pass: what the nodes see, where it is not the chain that `attention_mask` speaks of.

    Returns:
        [batch, nodes, heads, value_dim], and no attention weights.

    Raises:
        ValueError: dropout, weights asked for, a position bias, or a mask that is not `causal_mask`'s.
    """
    if not isinstance(attention_mask, CausalMask):
        _refuse_mask(module, attention_mask)
    if dropout:
        raise ValueError(f"{NAME}: there is no dropout, got {dropout:g}; call model.eval(), or set attention_dropout=0")
    if output_attentions:
        _refuse_output_attentions()
    if position_bias is not None:
        raise ValueError(f"{NAME}: there is no position bias, got one from {type(module).__name__}")
    rows = attention_mask.rows if tree_pass is None else tree_pass
    rows.layers += 1
    out, _lse = tree_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        rows.ancestors,
        rows.prefix_lengths,
        node_counts=rows.node_counts,
        starts=rows.starts,
        scale=scaling,
        softcap=softcap or 0.0,
        window=attention_mask.window,
        sinks=None if s_aux is None else s_aux.float(),
        return_lse=True,
    )
    return out, None


def _refuse_mask(module: nn.Module, mask: Tensor | None) -> NoReturn:
    if mask is None:
        name = type(module).__name__
        raise ValueError(f"{NAME}: attention must be causal, got {name}, which gives it no mask: an encoder's layer")
    raise ValueError(
        f"{NAME}: attention_mask must be [batch, tokens], got a mask of shape {list(mask.shape)}; "
        "for a tree use mtp_ext.integrations.tree_model.tree_forward"
    )


def _refuse_output_attentions() -> NoReturn:
    raise ValueError(f"{NAME}: output_attentions must be False, since no attention weights are formed; use 'eager'")


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, causal_mask)
