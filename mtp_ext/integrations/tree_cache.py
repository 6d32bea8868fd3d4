"""A transformers `Cache` whose keys and values lie in a `KVCache`: nothing is concatenated, the prefix never moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from mtp_ext.integrations.tree_attention import NAME, TreePass, check_attention
from mtp_ext.kv_cache import KVCache


class TreeCache(Cache):  # type: ignore[misc]  # transformers is not looked into
    """The cache of a model with `attn_implementation="mtp_tree"`.

    `chain_forward` and `tree_forward` write it, with a length for each request. `model(..., cache=cache)`
    and `model.generate` can use it too, as any cache; then the model is told of padding, and the cache is not, so
    that afterwards it takes no more trees.

    Args:
        model: whose cache this is; on its device.
        batch, capacity: requests, and rows for each of them: tokens and the nodes of the largest tree.

    Attributes:
        kv: the rows; what is kept of a tree is said to `kv.advance`.

    Raises:
        ValueError, TypeError: a size that is no positive integer; a model with layers that keep something else.
    """

    kv: KVCache

    def __init__(self, model: PreTrainedModel, batch: int, capacity: int) -> None:
        config = model.config.get_text_config(decoder=True)
        if (other := other_layer(config)) is not None:
            raise ValueError(
                "TreeCache: every layer of the model must be attention over all tokens or a sliding window, "
                f"got {type(model).__name__}, whose layer {other[0]} keeps a {other[1]}"
            )
        super().__init__(layers=[])
        self.kv = KVCache(batch, capacity, device=model.device)
        self._config = config
        self._pass: TreePass | None = None
        self.knows_padding = True

    def __repr__(self) -> str:
        return f"TreeCache({self.kv})"

    def request(self, index: int) -> "TreeCache":
        """The cache of one request, which shares the rows of this one; its length is its own."""
        cache = copy(self)
        cache.kv = self.kv.request(index)
        return cache

    @contextmanager
    def running(self, tree_pass: TreePass) -> Iterator[None]:
        """While a pass with this `tree_pass` runs, whose rows nothing keeps yet."""
        self._pass = tree_pass
        try:
            yield
        finally:
            self._pass = None

    # ---- What a model calls -------------------------------------------------------------------------------

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Appends [batch, kv_heads, nodes, head_dim]; returns all rows, [batch, kv_heads, capacity, head_dim]."""
        key, value = key_states.transpose(1, 2), value_states.transpose(1, 2)
        while len(self.kv.keys) <= layer_idx:
            self.kv.add_layer(key.shape[2], key.shape[3], value.shape[3], dtype=key.dtype)
        if self._pass is not None:
            self.kv.append(layer_idx, key, value, self._pass.node_counts)
        else:
            self._append_chain(layer_idx, key, value)
        return self.kv.keys[layer_idx].transpose(1, 2), self.kv.values[layer_idx].transpose(1, 2)

    def _append_chain(self, layer: int, key: Tensor, value: Tensor) -> None:
        check_attention("TreeCache", self._config)  # another one would read all rows that there are
        lengths = self.kv.lengths.tolist()
        if min(lengths) != max(lengths):
            raise ValueError(
                f"{NAME}: only chain_forward and tree_forward take requests of different lengths, got {lengths}"
            )
        self.knows_padding = False
        self.kv.append(layer, key, value)
        if layer == self._config.num_hidden_layers - 1:
            self.kv.advance(key.shape[1])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the longest request."""
        return int(self.kv.lengths.max())

    # The mask of a pass that runs by its `tree_pass` says no more than the window: no need to read the lengths.

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0 if self._pass is not None else self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_query_offset() + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.kv.capacity

    # ---- What `generate` calls ----------------------------------------------------------------------------

    def reset(self) -> None:
        self.kv.crop(0)
        self.kv.starts = torch.zeros_like(self.kv.starts)
        self.knows_padding = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets as many tokens of every request; transformers gives their number as one that is not positive."""
        self.kv.crop(self.kv.lengths + tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.kv = self.kv.select(beam_idx.long())

    def batch_select_indices(self, indices: Tensor) -> None:
        self.kv = self.kv.select(indices.long())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.kv = self.kv.select(torch.arange(self.kv.batch, device=self.kv.lengths.device).repeat_interleave(repeats))


def other_layer(config: PreTrainedConfig) -> tuple[int, str] | None:
    """The first layer, and what it keeps, that is not attention with a cache of its own."""
    for index, layer in enumerate(DynamicCache(config=config).layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return index, type(layer).__name__
    return None
