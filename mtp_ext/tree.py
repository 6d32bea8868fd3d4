"""Trees of candidate tokens: what one forward pass verifies."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from mtp_ext import host
from mtp_ext import tree_builders as builders
from mtp_ext import tree_conversions as conversions
from mtp_ext.branches import Branches
from mtp_ext.marginalize import TopPairs
from mtp_ext.ops.checks import check_tensor, has_values
from mtp_ext.reference.tree import double_paths
from mtp_ext.tree_builders import Budget, TreeShape
from mtp_ext.tree_conversions import SiblingLinks


class TokenTree:
    """A batch of trees of candidate tokens, one a request, padded to the same number of nodes.

    Node 0 is the root: the last committed token, whose key and value are not in the cache yet. A parent comes before
    its child. A request with fewer nodes ends in padding. Siblings should hold different tokens, as the builders see
    to: of equal ones the second is verified against a distribution that has already refused its token.

    Nothing here but the check of a tree, the builders and the conversions that say so waits for the device.

    Args:
        tokens: int64 [batch, nodes]; padding holds any token (the builders: 0, which every embedding has).
        parents: int64 [batch, nodes]; the root's is -1, a padding node's -2.
        log_probs: float32 [batch, nodes] or None: the drafter's log-probability of the node's whole path, in nats;
            the root's is 0 (the builders give padding -inf).
        validate: check tokens and parents, which reads them on the host; False for trees that a kernel built.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device, or a malformed tree, with its request and node.
    """

    tokens: Tensor
    parents: Tensor
    log_probs: Tensor | None

    def __init__(
        self, tokens: Tensor, parents: Tensor, log_probs: Tensor | None = None, *, validate: bool = True
    ) -> None:
        check_tensor("TokenTree", "tokens", tokens, [("batch", None), ("nodes", None)], [torch.int64])
        shape = list(zip(("batch", "nodes"), tokens.shape, strict=True))
        check_tensor("TokenTree", "parents", parents, shape, [torch.int64], tokens)
        if log_probs is not None:
            check_tensor("TokenTree", "log_probs", log_probs, shape, [torch.float32], tokens)
        if validate:
            for request, (row, ids) in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True)):
                _check_parents(request, row)
                _check_tokens(request, row, ids)
        self.tokens, self.parents, self.log_probs = tokens, parents, log_probs

    def __repr__(self) -> str:
        batch, nodes = self.tokens.shape
        return f"TokenTree({batch=}, {nodes=}, device={str(self.tokens.device)!r})"

    # ---- Properties ---------------------------------------------------------------------------------------

    @cached_property
    def node_counts(self) -> Tensor:
        """int64 [batch]: nodes without the padding."""
        return (self.parents != -2).sum(1)

    @cached_property
    def _structure(self) -> tuple[Tensor, Tensor]:
        if not has_values(self.parents):
            return double_paths(self.parents)
        depths, ancestors = host.tree_structure(self.parents.numpy())
        return torch.from_numpy(depths), torch.from_numpy(ancestors)

    @property
    def depths(self) -> Tensor:
        """int64 [batch, nodes]: edges from the root, -1 for padding."""
        return self._structure[0]

    @property
    def ancestors(self) -> Tensor:
        """int64 [batch, nodes, ceil(nodes / 64)]: bit j % 64 of word j // 64 of row i is set when node i sees node j:
        its ancestors and itself. Rows of padding are zero, and nobody sees padding."""
        return self._structure[1]

    def position_ids(self, prefix_lengths: Tensor | int) -> Tensor:
        """The nodes' positions in their sequences: prefix length plus depth; 0 for padding.

        Args:
            prefix_lengths: int64 [batch], tokens in the cache; or one number for all requests.

        Returns:
            int64 [batch, nodes].
        """
        prefix = self._prefix_lengths("TokenTree.position_ids", prefix_lengths)
        return (prefix[:, None] + self.depths).where(self.depths >= 0, 0)

    # ---- Builders -----------------------------------------------------------------------------------------
    # All of them merge equal siblings, give requests trees of different sizes where they must, wait for the device,
    # and take `root_tokens`, int64 [batch]: the last committed tokens. A `budget` counts nodes, the root included:
    # one number, or one for each request.

    @classmethod
    def from_choices(
        cls, root_tokens: Tensor, choices: Sequence[Sequence[int]], candidate_tokens: Tensor
    ) -> "TokenTree":
        """Medusa's static tree: the same shape for every request, filled with the candidates of each depth.

        Nodes come level by level, siblings by rank: where all candidates exist and differ, node i + 1 is
        `sorted(choices, key=lambda choice: (len(choice), choice))[i]`.

        Args:
            root_tokens: int64 [batch].
            choices: paths of child ranks, one for each node but the root: [(0,), (1,), (0, 0)] is two children, and a
                child of the first. With each path its parent. `optimal_shape` finds good ones.
            candidate_tokens: int64 [batch, depth, k], most probable first; -1 where there is none, so that the node
                and what hangs on it are left out.

        Raises:
            ValueError, TypeError: a wrong shape or dtype; a path that is too deep, whose parent is not a choice, or
                with a rank beyond k.

        Source: Medusa, arXiv 2401.10774.
        """
        return cls(*builders.grow_from_choices(root_tokens, choices, candidate_tokens), validate=False)

    @classmethod
    def from_paths(
        cls,
        root_tokens: Tensor,
        paths: Sequence[Sequence[Sequence[int]]],
        *,
        budget: Budget | None = None,
    ) -> "TokenTree":
        """The trie of continuations, such as those that followed the last n-gram earlier in the text.

        Args:
            root_tokens: int64 [batch].
            paths: for each request its continuations, each a list of token ids; equal beginnings become one path.
            budget: stop there; earlier paths go first.

        Raises:
            ValueError, TypeError: not one list of paths for each request, a negative token, a budget below 1.
        """
        return cls(*builders.grow_from_paths(root_tokens, paths, budget), validate=False)

    @classmethod
    def best_first(
        cls, root_tokens: Tensor, candidate_tokens: Tensor, candidate_log_probs: Tensor, *, budget: Budget
    ) -> "TokenTree":
        """The tree of `budget` nodes with the largest sum of path probabilities, when the depths are independent:
        no tree of as many nodes has more accepted tokens to expect, were the drafter right.

        Nodes come in descending order of path probability; ties go to the earlier parent, then to the earlier
        candidate. Of equal candidates of one depth the most probable counts. The result has `log_probs`.

        Args:
            root_tokens: int64 [batch].
            candidate_tokens: int64 [batch, depth, k]; -1 where there is none.
            candidate_log_probs: float32 [batch, depth, k], in nats; -inf where there is none.
            budget: nodes, the root included.

        Raises:
            ValueError, TypeError: a wrong shape or dtype, a log-probability that is NaN or above 0, a budget below 1.
        """
        grown = builders.grow_best_first(root_tokens, candidate_tokens, candidate_log_probs, budget)
        return cls(*grown, validate=False)

    @classmethod
    def from_joint(cls, root_tokens: Tensor, branches: Branches, pairs: TopPairs, *, budget: Budget) -> "TokenTree":
        """The `budget` most probable nodes among the branches, as children of the root, and the tokens after them.

        Unlike independent depths, the joint distribution knows which second token follows which first. Nodes come in
        descending order of path probability. The result has `log_probs`.

        Args:
            root_tokens: int64 [batch].
            branches: from `select_branches`, [batch, width].
            pairs: from `joint_topk` over the same branches, [batch, k]. With k = budget - 1 no better pair is missed.
            budget: nodes, the root included.

        Raises:
            ValueError, TypeError: a wrong shape or dtype, a log-probability that is NaN or above 0, a pair of a
                branch that does not exist, a budget below 1.
        """
        return cls(*builders.grow_from_joint(root_tokens, branches, pairs, budget), validate=False)

    @staticmethod
    def optimal_shape(
        acceptance_rates: Sequence[float],
        nodes: int,
        *,
        max_depth: int | None = None,
        max_branching: int | None = None,
    ) -> TreeShape:
        """The shape of at most `nodes` nodes that has most accepted tokens to expect: choices for `from_choices`.

        Assumes that the child of rank r is accepted with a probability that depends on r alone. Time grows with
        len(acceptance_rates) * nodes ** 2, and with max_depth where it is below nodes - 1. Nodes that add nothing are
        left out.

        Args:
            acceptance_rates: by the child's rank, how often it is the accepted one where its parent is accepted; at
                most one child is, so their sum is at most 1. They need not descend.
            nodes: from 1 to 8192, the root included.
            max_depth: edges below the root, from 0; None for no limit.
            max_branching: children of a node; None for as many as there are rates.

        Returns:
            `TreeShape(choices, expected_length)`.

        Raises:
            ValueError, TypeError: rates that are not such probabilities, or a number out of its range.

        Source: Sequoia's tree construction, arXiv 2402.12374.
        """
        return builders.find_optimal_shape(acceptance_rates, nodes, max_depth, max_branching)

    # ---- Conversions --------------------------------------------------------------------------------------

    def to_dense_mask(self, prefix_lengths: Tensor | int, *, dtype: torch.dtype = torch.bool) -> Tensor:
        """The mask over a contiguous cache in which row prefix_lengths[b] + i holds node i.

        Every node sees the prefix, its ancestors and itself; padding sees nothing and is seen by nobody.

        Args:
            prefix_lengths: int64 [batch], which waits for the device, or one number for all requests.
            dtype: torch.bool: true where visible, as `scaled_dot_product_attention` takes it; a floating dtype: what
                is added to the scores, 0 where visible and otherwise the lowest finite number, as in transformers: a
                row of -inf would make NaN.

        Returns:
            [batch, nodes, longest prefix + nodes]; most callers insert a dimension for the heads, `mask[:, None]`.
        """
        op = "TokenTree.to_dense_mask"
        if not (dtype == torch.bool or dtype.is_floating_point):
            raise TypeError(f"{op}: dtype must be torch.bool or a floating dtype, got {dtype}")
        prefix = self._prefix_lengths(op, prefix_lengths)
        # One number is known here; lengths on a device must be waited for.
        lengths = [prefix_lengths] * len(prefix) if isinstance(prefix_lengths, int) else prefix.tolist()
        visible = conversions.visible_rows(self.ancestors, self.parents, lengths)
        if dtype == torch.bool:
            return visible
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)

    def to_flashinfer_mask(self, prefix_lengths: Tensor | int, *, packed: bool = False) -> Tensor:
        """FlashInfer's `custom_mask`, or its `packed_custom_mask`. Waits for the device.

        One request after the other, each a mask [node_counts[b], prefix_lengths[b] + node_counts[b]] in row-major
        order, true where visible, padding left out.

        Args:
            prefix_lengths: int64 [batch], or one number for all requests.
            packed: eight entries a byte, the first one lowest ("little"), each request from a byte of its own on, as
                `flashinfer.quantization.segment_packbits` does.

        Returns:
            bool [sum of node_counts * (prefix_lengths + node_counts)], or uint8 [bytes].

        Source: "Mask Layout" in docs.flashinfer.ai/tutorials/kv_layout.html.
        """
        prefix = self._prefix_lengths("TokenTree.to_flashinfer_mask", prefix_lengths)
        ends = prefix + self.node_counts
        visible = self.to_dense_mask(prefix_lengths)
        inside = torch.arange(visible.shape[2], device=visible.device) < ends[:, None]
        flat = visible[(self.parents != -2)[..., None] & inside[:, None]]
        if not packed:
            return flat
        sizes = (self.node_counts * ends).tolist()
        empty = flat.new_empty(0, dtype=torch.uint8)
        return torch.cat([empty, *(conversions.pack_bits(mask) for mask in flat.split(sizes))])

    def to_sibling_links(self) -> SiblingLinks:
        """First children and next siblings, as SGLang's verification kernels take them; siblings in node order.

        Returns:
            `SiblingLinks(indices, first_children, next_siblings)`, SGLang's retrive_index, retrive_next_token and
            retrive_next_sibling.
        """
        return conversions.sibling_links(self.parents)

    def to_retrieve_indices(self) -> Tensor:
        """Medusa's retrieve_indices: the nodes on the path from the root to each leaf. Waits for the device.

        Returns:
            int64 [batch, leaves, largest depth + 1], leaves in node order, padded with -1.
        """
        return conversions.retrieve_indices(self.parents, self.depths)

    def _prefix_lengths(self, op: str, prefix_lengths: Tensor | int) -> Tensor:
        """int64 [batch], checked."""
        if isinstance(prefix_lengths, int):
            prefix_lengths = self.parents.new_full(self.parents.shape[:1], prefix_lengths)
        check_tensor(
            op, "prefix_lengths", prefix_lengths, [("batch", self.parents.shape[0])], [torch.int64], self.parents
        )
        if has_values(prefix_lengths) and (prefix_lengths < 0).any():
            raise ValueError(f"{op}: prefix_lengths must not be negative, got {int(prefix_lengths.min())}")
        return prefix_lengths


def _check_parents(request: int, parents: list[int]) -> None:
    """Raises a ValueError for the first node that makes this no tree."""

    def refuse(node: int, sentence: str) -> None:
        raise ValueError(f"TokenTree: parents[{request}, {node}] {sentence}")

    if not parents or parents[0] != -1:
        refuse(0, f"must be -1, the root, got {parents[0] if parents else 'no nodes'}")
    for node, parent in enumerate(parents[1:], start=1):
        if 0 <= parent < node:
            if parents[node - 1] == -2:
                refuse(node - 1, f"must not be padding (-2) before node {node}: padding comes at the end")
        elif parent == -1:
            refuse(node, "must be an earlier node, got -1: a second root")
        elif parent < -2 or parent >= len(parents):
            refuse(node, f"must be an earlier node, or -2 for padding, got {parent} of {len(parents)} nodes")
        elif parent >= node:
            fault = "a cycle" if _is_on_cycle(parents, node) else "a parent after its child"
            refuse(node, f"must be an earlier node, got {parent}: {fault}")


def _is_on_cycle(parents: list[int], node: int) -> bool:
    place = parents[node]
    for _ in parents:
        if place == node or not 0 <= place < len(parents):
            break
        place = parents[place]
    return place == node


def _check_tokens(request: int, parents: list[int], tokens: list[int]) -> None:
    for node, (parent, token) in enumerate(zip(parents, tokens, strict=True)):
        if token < 0 and parent != -2:
            raise ValueError(f"TokenTree: tokens[{request}, {node}] must be a token id from 0, got {token}")
