"""Trees to attend over, and torch's own attention over each of their paths alone."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from mtp_ext.testing_trees import Result, TreeCase, path_to, random_parents

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NODES = [1, 2, 5, 8, 17, 63, 64, 65, 130]  # one word of ancestors, one tile of rows, and their neighbours
BUSHY = 10_000  # a reach beyond any number of nodes


@st.composite
def trees(draw: st.DrawFn, most: int = 130) -> list[int]:
    """The parents of a tree, from a chain to siblings of siblings."""
    nodes = draw(st.sampled_from([nodes for nodes in NODES if nodes <= most]))
    return random_parents(nodes, draw(st.sampled_from([1, 2, 5, BUSHY])), draw(st.integers(0, 99)))


def plain_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Result:
    """torch's own causal attention of the last rows of one sequence [rows, heads, dim], in float64."""
    query, key, value = (x.double().transpose(0, 1) for x in (query, key, value))
    key, value = (x.repeat_interleave(query.shape[0] // x.shape[0], 0) for x in (key, value))
    ahead = key.shape[1] - query.shape[1]
    sees = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).tril(ahead)
    if window is not None:
        sees = sees.triu(ahead - window + 1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
    scores = query @ key.mT * query.shape[-1] ** -0.5
    return out.transpose(0, 1), scores.masked_fill(~sees, -torch.inf).logsumexp(-1).t()


def plain_attention_of_paths(case: TreeCase, parents: list[list[int]], window: int | None = None) -> Result:
    """Plain attention over each path from the root to a leaf alone, as if no other node existed."""
    batch, nodes, heads, _ = case.query.shape
    out = torch.zeros(batch, nodes, heads, case.value.shape[-1], dtype=torch.float64)
    lse = torch.full((batch, nodes, heads), -torch.inf, dtype=torch.float64)
    for b, tree in enumerate(parents):
        prefix = int(case.prefix_lengths[b])
        for leaf in set(range(len(tree))) - set(tree):
            path = path_to(tree, leaf)
            rows = [*range(prefix), *(prefix + node for node in path)]
            path_out, path_lse = plain_attention(case.query[b, path], case.key[b, rows], case.value[b, rows], window)
            out[b, path], lse[b, path] = path_out, path_lse
    return out, lse
