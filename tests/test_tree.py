"""Laws of TokenTree: what parents imply, and that every other way to write a tree down says the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mtp_ext import host
from mtp_ext.reference import tree as reference
from mtp_ext.tree import TokenTree

CHAIN = [-1, 0, 1, 2]
SIBLINGS = [-1, 0, 0, 0]
#             0
#           1   2
#         3 4   5
BINARY = [-1, 0, 0, 1, 1, 2]


def make_tree(*rows: list[int], device: str = "cpu", padding: int = 0) -> TokenTree:
    """A validated tree whose tokens count up, padded to the longest row and `padding` nodes more."""
    nodes = max(map(len, rows)) + padding
    parents = torch.tensor([row + [-2] * (nodes - len(row)) for row in rows], device=device)
    return TokenTree(torch.arange(parents.numel(), device=device).view_as(parents), parents)


@st.composite
def parents_lists(draw: st.DrawFn) -> list[int]:
    """One request's parents: bushy, deep, or anything between; sometimes more than one word of ancestors."""
    nodes = draw(st.one_of(st.integers(1, 12), st.sampled_from([63, 64, 65, 130])))
    reach = draw(st.sampled_from([1, 2, 5, 200]))  # how far back a parent may be: 1 makes a chain
    if nodes <= 12:
        return [-1, *(draw(st.integers(max(0, i - reach), i - 1)) for i in range(1, nodes))]
    random = draw(st.randoms(use_true_random=False))
    return [-1, *(random.randint(max(0, i - reach), i - 1) for i in range(1, nodes))]


batches = st.builds(
    lambda rows, padding: (rows, padding), st.lists(parents_lists(), min_size=1, max_size=3), st.integers(0, 3)
)


def ancestors_by_climbing(parents: list[int], node: int) -> list[int]:
    """The nodes from `node` up to the root."""
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path


def prefixes_for(tree: TokenTree) -> Tensor:
    """Prefix lengths 0, 5, 10, ..."""
    return torch.arange(tree.parents.shape[0], device=tree.parents.device) * 5


# ---- Properties -------------------------------------------------------------------------------------------


@given(batches)
def test_properties_equal_climbing(device: str, batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    tree = make_tree(*rows, device=device, padding=padding)
    nodes = tree.parents.shape[1]
    assert tree.node_counts.tolist() == [len(row) for row in rows]
    assert tree.ancestors.shape == (len(rows), nodes, (nodes + 63) // 64)
    positions = tree.position_ids(prefixes_for(tree)).tolist()
    for request, row in enumerate(rows):
        for node in range(nodes):
            path = ancestors_by_climbing(row, node) if node < len(row) else []
            assert tree.depths[request, node].item() == len(path) - 1
            assert positions[request][node] == (5 * request + len(path) - 1 if path else 0)
            words = tree.ancestors[request, node].tolist()
            bits = sum((word % 2**64) << 64 * i for i, word in enumerate(words))
            assert bits == sum(1 << ancestor for ancestor in path)


@given(batches)
def test_compiled_structure_equals_its_reference(batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    parents = make_tree(*rows, padding=padding).parents
    for actual, expected in zip(
        host.tree_structure(parents.numpy()), reference.tree_structure(parents.numpy()), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@given(parents_lists(), st.randoms(use_true_random=False))
def test_renumbering_the_nodes_renumbers_what_they_see(parents: list[int], random) -> None:
    order = [0]  # any other order in which parents come first: the old number of each new node
    while len(order) < len(parents):
        order.append(random.choice([i for i in range(1, len(parents)) if i not in order and parents[i] in order]))
    renumbered = [-1, *(order.index(parents[old]) for old in order[1:])]
    before, after = make_tree(parents), make_tree(renumbered)
    assert torch.equal(after.depths, before.depths[:, order])
    assert torch.equal(after.to_dense_mask(0), before.to_dense_mask(0)[:, order][:, :, order])


def test_properties_of_a_small_tree(device: str) -> None:
    tree = make_tree(BINARY, CHAIN, device=device)
    assert tree.depths.tolist() == [[0, 1, 1, 2, 2, 2], [0, 1, 2, 3, -1, -1]]
    assert tree.ancestors.squeeze(-1).tolist() == [
        [0b000001, 0b000011, 0b000101, 0b001011, 0b010011, 0b100101],
        [0b000001, 0b000011, 0b000111, 0b001111, 0, 0],
    ]
    assert tree.position_ids(10).tolist() == [[10, 11, 11, 12, 12, 12], [10, 11, 12, 13, 0, 0]]
    assert tree.ancestors.device == tree.depths.device == tree.parents.device
    assert repr(tree) == f"TokenTree(batch=2, nodes=6, device='{tree.parents.device}')"


def test_the_last_bit_of_a_word_is_a_bit_like_any_other() -> None:
    tree = make_tree([-1, *range(64)])
    assert tree.ancestors[0, 63].tolist() == [-1, 0]
    assert tree.ancestors[0, 64].tolist() == [-1, 1]


def test_nothing_waits_for_the_device() -> None:
    """A fake tensor has no values: whoever reads one raises."""
    with FakeTensorMode():
        parents = torch.empty(3, 70, dtype=torch.int64)
        tree = TokenTree(parents, parents, torch.empty(3, 70), validate=False)
        assert tree.node_counts.shape == (3,)
        assert tree.depths.shape == tree.position_ids(7).shape == (3, 70)
        assert tree.position_ids(torch.empty(3, dtype=torch.int64)).shape == (3, 70)
        assert tree.ancestors.shape == (3, 70, 2)
        assert tree.to_dense_mask(7).shape == (3, 70, 77)
        assert {links.shape for links in tree.to_sibling_links()} == {(3, 70)}


def test_an_empty_batch(device: str) -> None:
    for nodes in (0, 5):
        empty = torch.empty(0, nodes, dtype=torch.int64, device=device)
        tree = TokenTree(empty, empty)
        assert tree.depths.shape == (0, nodes)
        assert tree.ancestors.shape == (0, nodes, (nodes + 63) // 64)
        assert tree.node_counts.shape == (0,)
        assert tree.to_dense_mask(3).shape[:2] == (0, nodes)
        assert tree.to_flashinfer_mask(3).shape == (0,)
        assert tree.to_flashinfer_mask(3, packed=True).shape == (0,)
        assert tree.to_retrieve_indices().shape == (0, 0, 0)
        assert tree.to_sibling_links().indices.shape == (0, nodes)


def test_columns_of_something_larger(device: str) -> None:
    """Any strides with a contiguous last dimension."""
    larger = torch.full((4, 9), -2, device=device)
    larger[::2, 3:7] = torch.tensor([CHAIN, SIBLINGS], device=device)
    parents = larger[::2, 3:7]
    tree = TokenTree(torch.zeros_like(parents), parents)
    assert tree.depths.tolist() == [[0, 1, 2, 3], [0, 1, 1, 1]]
    assert tree.to_sibling_links().first_children.tolist() == [[1, 2, 3, -1], [1, -1, -1, -1]]
    assert tree.to_dense_mask(1).sum().item() == 8 + 10 + 7


# ---- Conversions ------------------------------------------------------------------------------------------


@given(batches)
def test_dense_mask_shows_the_prefix_and_the_ancestors(device: str, batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    tree = make_tree(*rows, device=device, padding=padding)
    prefixes = prefixes_for(tree)
    mask = tree.to_dense_mask(prefixes)
    nodes = tree.parents.shape[1]
    expected = torch.zeros(len(rows), nodes, int(prefixes.max()) + nodes, dtype=torch.bool)
    for request, row in enumerate(rows):
        prefix = 5 * request
        for node in range(len(row)):
            expected[request, node, :prefix] = True
            expected[request, node, [prefix + i for i in ancestors_by_climbing(row, node)]] = True
    assert torch.equal(mask.cpu(), expected)
    additive = tree.to_dense_mask(prefixes, dtype=torch.float16)
    assert additive.dtype == torch.float16
    assert torch.equal(additive == 0, mask)
    assert (additive[~mask] == torch.finfo(torch.float16).min).all()


def test_one_prefix_length_for_all(device: str) -> None:
    tree = make_tree(BINARY, CHAIN, device=device)
    same = torch.tensor([7, 7], device=device)
    assert torch.equal(tree.to_dense_mask(7), tree.to_dense_mask(same))
    assert torch.equal(tree.to_flashinfer_mask(7), tree.to_flashinfer_mask(same))
    assert torch.equal(tree.position_ids(7), tree.position_ids(same))


def test_a_chain_is_causal_and_siblings_see_themselves() -> None:
    assert torch.equal(make_tree(CHAIN).to_dense_mask(0)[0], torch.ones(4, 4, dtype=torch.bool).tril())
    siblings = make_tree(SIBLINGS).to_dense_mask(0)[0]
    siblings[1:, 0] = False
    assert torch.equal(siblings, torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_attention_through_the_dense_mask_ignores_padding(dtype: torch.dtype) -> None:
    """Nor does a row of padding, which sees nothing, become NaN and poison the next layer."""
    generator = torch.Generator().manual_seed(0)
    tree = make_tree(BINARY, padding=2)
    query, key, value = torch.randn(3, 1, 1, 3 + 8, 16, generator=generator)
    mask = tree.to_dense_mask(3, dtype=dtype)[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(query[:, :, 3:], key, value, attn_mask=mask)
    assert out.isfinite().all()
    key[..., 9:, :], value[..., 9:, :] = 1e3, 1e3
    again = torch.nn.functional.scaled_dot_product_attention(query[:, :, 3:], key, value, attn_mask=mask)
    assert torch.equal(out[..., :6, :], again[..., :6, :])


@given(batches)
def test_flashinfer_mask_is_the_dense_mask_without_padding(device: str, batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    tree = make_tree(*rows, device=device, padding=padding)
    prefixes = prefixes_for(tree)
    dense = tree.to_dense_mask(prefixes).cpu()
    pieces = [dense[i, : len(row), : 5 * i + len(row)].flatten() for i, row in enumerate(rows)]
    assert torch.equal(tree.to_flashinfer_mask(prefixes).cpu(), torch.cat(pieces))
    octets = np.concatenate([np.packbits(piece.numpy(), bitorder="little") for piece in pieces])
    packed = tree.to_flashinfer_mask(prefixes, packed=True)
    assert packed.dtype == torch.uint8
    np.testing.assert_array_equal(packed.cpu().numpy(), octets)


def test_each_request_of_a_packed_mask_starts_a_byte(device: str) -> None:
    tree = make_tree([-1, 0], [-1], device=device)
    # Masks [2, 3] and [1, 2]: rows 110 and 111, then 11; the first entry is the lowest bit.
    assert tree.to_flashinfer_mask(1).int().tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert tree.to_flashinfer_mask(1, packed=True).tolist() == [0b111011, 0b11]


@given(batches)
def test_sibling_links_say_who_the_parents_are(device: str, batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    tree = make_tree(*rows, device=device, padding=padding)
    nodes = tree.parents.shape[1]
    links = tree.to_sibling_links()
    for request, row in enumerate(rows):
        first, following = links.first_children[request].tolist(), links.next_siblings[request].tolist()
        parents = [-1] + [-2] * (nodes - 1)
        for node in range(nodes):
            child, before = first[node], -1
            while child != -1:
                assert child > before, "siblings come in node order"
                parents[child] = node
                child, before = following[child], child
        assert parents == tree.parents[request].tolist()
        padded = [-1] * (nodes - len(row))
        assert links.indices[request].tolist() == [request * nodes + node for node in range(len(row))] + padded


def test_sibling_links_of_a_small_tree() -> None:
    links = make_tree(BINARY).to_sibling_links()
    assert links.indices.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert links.first_children.tolist() == [[1, 3, 5, -1, -1, -1]]
    assert links.next_siblings.tolist() == [[-1, 2, -1, 4, -1, -1]]


@given(batches)
def test_retrieve_indices_are_the_paths_to_the_leaves(device: str, batch: tuple[list[list[int]], int]) -> None:
    rows, padding = batch
    tree = make_tree(*rows, device=device, padding=padding)
    indices = tree.to_retrieve_indices()
    leaves = [[node for node in range(len(row)) if node not in row] for row in rows]
    assert indices.shape == (len(rows), max(map(len, leaves)), int(tree.depths.max()) + 1)
    for request, row in enumerate(rows):
        paths = [[node for node in path if node >= 0] for path in indices[request].tolist()]
        expected = [ancestors_by_climbing(row, leaf)[::-1] for leaf in leaves[request]]
        assert paths[: len(expected)] == expected
        assert not any(paths[len(expected) :])


def test_retrieve_indices_of_a_small_tree() -> None:
    assert make_tree(BINARY, [-1, 0]).to_retrieve_indices().tolist() == [
        [[0, 1, 3], [0, 1, 4], [0, 2, 5]],
        [[0, 1, -1], [-1, -1, -1], [-1, -1, -1]],
    ]


# ---- Bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[-1, 0], [0, 0]], "TokenTree: parents[1, 0] must be -1, the root, got 0"),
        ([[-2, -2]], "TokenTree: parents[0, 0] must be -1, the root, got -2"),
        ([[-1, 0], [-1, -1]], "TokenTree: parents[1, 1] must be an earlier node, got -1: a second root"),
        ([[-1, 2, 0]], "TokenTree: parents[0, 1] must be an earlier node, got 2: a parent after its child"),
        ([[-1, 0, 2]], "TokenTree: parents[0, 2] must be an earlier node, got 2: a cycle"),
        ([[-1, 3, 1, 2]], "TokenTree: parents[0, 1] must be an earlier node, got 3: a cycle"),
        ([[-1, 2, 3, 2]], "TokenTree: parents[0, 1] must be an earlier node, got 2: a parent after its child"),
        ([[-1, 2, -7]], "TokenTree: parents[0, 1] must be an earlier node, got 2: a parent after its child"),
        (
            [[-1, 0, -2, 0]],
            "TokenTree: parents[0, 2] must not be padding (-2) before node 3: padding comes at the end",
        ),
        (
            [[-1, -2, 1]],
            "TokenTree: parents[0, 1] must not be padding (-2) before node 2: padding comes at the end",
        ),
        ([[-1, 4, 0]], "TokenTree: parents[0, 1] must be an earlier node, or -2 for padding, got 4 of 3 nodes"),
        ([[-1, 0, -3]], "TokenTree: parents[0, 2] must be an earlier node, or -2 for padding, got -3 of 3 nodes"),
    ],
)
def test_malformed_trees(device: str, rows: list[list[int]], sentence: str) -> None:
    parents = torch.tensor(rows, device=device)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        TokenTree(torch.zeros_like(parents), parents)
    assert str(error.value) == sentence


def test_a_tree_without_nodes() -> None:
    empty = torch.empty(2, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^TokenTree: parents\[0, 0\] must be -1, the root, got no nodes$"):
        TokenTree(empty, empty)


def test_negative_tokens() -> None:
    parents = torch.tensor([CHAIN, [-1, 0, 0, -2]])
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 7, -1]])
    TokenTree(tokens, parents)  # padding may hold anything
    tokens[1, 2] = -1
    with pytest.raises(ValueError, match=r"^TokenTree: tokens\[1, 2\] must be a token id from 0, got -1$"):
        TokenTree(tokens, parents)


TOKENS = torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (([1, 2], TOKENS), TypeError, "TokenTree: tokens must be a Tensor, got list"),
        (
            (TOKENS.int(), TOKENS),
            TypeError,
            "TokenTree: tokens must be [batch, nodes] int64 on cpu, got [2, 4] int32 on cpu",
        ),
        (
            (TOKENS[0], TOKENS),
            ValueError,
            "TokenTree: tokens must be [batch, nodes] int64 on cpu, got [4] int64 on cpu",
        ),
        (
            (TOKENS, TOKENS[:, :3]),
            ValueError,
            "TokenTree: parents must be [batch=2, nodes=4] int64 on cpu, got [2, 3] int64 on cpu",
        ),
        (
            (TOKENS, TOKENS, TOKENS.double()),
            TypeError,
            "TokenTree: log_probs must be [batch=2, nodes=4] float32 on cpu, got [2, 4] float64 on cpu",
        ),
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_wrong_shapes_and_dtypes(arguments, error: type[Exception], sentence: str, validate: bool) -> None:
    with pytest.raises(error) as caught:
        TokenTree(*arguments, validate=validate)
    assert str(caught.value) == sentence


def test_an_unvalidated_tree_is_never_read_out_of_bounds() -> None:
    parents = torch.tensor([[-1, 2, 9]])
    tree = TokenTree(TOKENS[:1, :3], parents, validate=False)
    if host.tree_structure is reference.tree_structure:
        pytest.skip("nothing is compiled")
    with pytest.raises(ValueError, match=r"^TokenTree: the parent of node 1 must be an earlier node, got 2$"):
        _ = tree.ancestors


@pytest.mark.parametrize("name", ["position_ids", "to_dense_mask", "to_flashinfer_mask"])
def test_wrong_prefix_lengths(name: str) -> None:
    convert = getattr(make_tree(CHAIN, BINARY), name)
    with pytest.raises(ValueError, match=f"^TokenTree.{name}: prefix_lengths must not be negative, got -3$"):
        convert(torch.tensor([4, -3]))
    with pytest.raises(ValueError, match=f"^TokenTree.{name}: prefix_lengths must not be negative, got -1$"):
        convert(-1)
    expected = rf"^TokenTree.{name}: prefix_lengths must be \[batch=2\] int64 on cpu, got \[3\] int64 on cpu$"
    with pytest.raises(ValueError, match=expected):
        convert(torch.tensor([1, 2, 3]))
    expected = rf"^TokenTree.{name}: prefix_lengths must be \[batch=2\] int64 on cpu, got \[2\] float32 on cpu$"
    with pytest.raises(TypeError, match=expected):
        convert(torch.tensor([1.0, 2.0]))


def test_wrong_mask_dtype() -> None:
    expected = r"^TokenTree.to_dense_mask: dtype must be torch.bool or a floating dtype, got torch.int64$"
    with pytest.raises(TypeError, match=expected):
        make_tree(CHAIN).to_dense_mask(0, dtype=torch.int64)


def test_log_probs_are_kept() -> None:
    log_probs = torch.tensor([[0.0, -0.5, -0.7, -math.inf]])
    tree = TokenTree(TOKENS[:1], torch.tensor([[-1, 0, 1, -2]]), log_probs)
    assert tree.log_probs is log_probs
