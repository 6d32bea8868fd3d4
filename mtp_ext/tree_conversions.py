"""Trees as others write them down: dense masks, FlashInfer, SGLang, Medusa. Tensors in, tensors out, any device."""

from typing import NamedTuple

import torch
from torch import Tensor


class SiblingLinks(NamedTuple):
    """A tree as its first children and next siblings, each int64 [batch, nodes], -1 where there is none.

    Attributes:
        indices: the node's row among all batch * nodes rows (SGLang: retrive_index).
        first_children: the node's first child (SGLang: retrive_next_token).
        next_siblings: the next child of the node's parent (SGLang: retrive_next_sibling).
    """

    indices: Tensor
    first_children: Tensor
    next_siblings: Tensor


def visible_nodes(ancestors: Tensor) -> Tensor:
    """bool [batch, nodes, nodes]: the bits of `ancestors`, [i, j] true where node i sees node j."""
    # Octets, lowest first: one int64 a bit would take eight times the memory. Cloned, since an empty array of NumPy's
    # has strides of 0, which `view` refuses.
    octets = ancestors.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    place = torch.arange(8, dtype=torch.uint8, device=ancestors.device)
    bits = (octets[..., None] >> place) & 1
    return bits.flatten(2)[..., : ancestors.shape[1]].bool()


def visible_rows(ancestors: Tensor, parents: Tensor, prefix_lengths: list[int]) -> Tensor:
    """bool [batch, nodes, longest prefix + nodes]: the rows of the cache that each node sees."""
    batch, nodes = parents.shape
    seen = visible_nodes(ancestors)
    rows = seen.new_zeros(batch, nodes, max(prefix_lengths, default=0) + nodes)
    for request, prefix in enumerate(prefix_lengths):
        rows[request, :, :prefix] = (parents[request] != -2)[:, None]
        rows[request, :, prefix : prefix + nodes] = seen[request]
    return rows


def pack_bits(mask: Tensor) -> Tensor:
    """uint8 [ceil(n / 8)]: the bits of bool [n], the first one lowest ("little")."""
    bits = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[0] % 8)).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def sibling_links(parents: Tensor) -> SiblingLinks:
    """First children and next siblings, in node order."""
    batch, nodes = parents.shape
    index = torch.arange(nodes, device=parents.device).expand(batch, -1)
    indices = torch.arange(batch * nodes, device=parents.device).view(batch, nodes)

    family = parents.where(parents >= 0, nodes)  # what has no parent goes into a family of its own
    first = torch.full((batch, nodes + 1), nodes, device=parents.device).scatter_reduce(1, family, index, "amin")
    first = first[:, :nodes]

    by_family, order = family.sort(dim=1, stable=True)
    next_in_order = order[:, 1:].where((by_family[:, 1:] == by_family[:, :-1]) & (by_family[:, 1:] < nodes), -1)
    next_siblings = torch.full_like(parents, -1).scatter(1, order[:, :-1], next_in_order)
    return SiblingLinks(indices.masked_fill(parents == -2, -1), first.masked_fill(first == nodes, -1), next_siblings)


def retrieve_indices(parents: Tensor, depths: Tensor) -> Tensor:
    """int64 [batch, leaves, levels]: the nodes from the root to each leaf, padded with -1."""
    is_leaf = (sibling_links(parents).first_children == -1) & (parents != -2)
    counts = is_leaf.sum(1)
    request, node = is_leaf.nonzero(as_tuple=True)
    leaf = torch.arange(node.shape[0], device=parents.device) - (counts.cumsum(0) - counts)[request]
    depth = depths[request, node]
    size = (parents.shape[0], max(counts.tolist(), default=0), max(depth.tolist(), default=-1) + 1)
    out = torch.full(size, -1, device=parents.device)
    for level in reversed(range(size[2])):
        on_path = depth >= level
        out[request, leaf, level] = node.where(on_path, -1)
        node = parents[request, node].where(on_path, node)
    return out
