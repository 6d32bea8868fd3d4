"""Laws of the continuations of a text by its own n-grams, of the compiled index and of its reference."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_ext import host
from mtp_ext.reference import ngram_index as reference

INDEXES = [pytest.param(host.NgramIndex, id="host"), pytest.param(reference.NgramIndex, id="reference")]
Index = type[host.NgramIndex] | type[reference.NgramIndex]


def drafted(index: Index, text: list[int], nodes: int = 64, depth: int = 16) -> dict[tuple[int, ...], float]:
    """The probability of each path below the root, in node order."""
    built = index()
    built.extend(text)
    tokens, parents, log_probs = built.draft(nodes, depth)
    assert (tokens[0], parents[0], log_probs[0]) == (text[-1], -1, 0.0)
    paths: list[tuple[int, ...]] = [()]
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        paths.append((*paths[parent], token))
    assert len(set(paths)) == len(paths), "equal siblings"
    return {path: math.exp(log_prob) for path, log_prob in zip(paths[1:], log_probs[1:], strict=True)}


@st.composite
def texts(draw: st.DrawFn) -> list[int]:
    """Texts that repeat themselves: few tokens, and pieces that come again."""
    vocab = draw(st.integers(1, 8))
    piece = draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=40))
    cut = draw(st.integers(0, len(piece)))
    return piece + piece[cut:] + piece[:cut] if draw(st.booleans()) else piece


@given(text=texts(), nodes=st.integers(1, 40), depth=st.integers(0, 12), pieces=st.integers(1, 7))
def test_compiled_equals_reference(text: list[int], nodes: int, depth: int, pieces: int) -> None:
    compiled, defined = host.NgramIndex(), reference.NgramIndex()
    for begin in range(0, len(text), pieces):
        compiled.extend(text[begin : begin + pieces])
        defined.extend(text[begin : begin + pieces])
        tokens, parents, log_probs = compiled.draft(nodes, depth)
        expected = defined.draft(nodes, depth)
        assert (tokens, parents) == expected[:2]
        assert log_probs == pytest.approx(expected[2], rel=1e-12, abs=1e-12)  # their logarithms may round differently


@pytest.mark.parametrize("index", INDEXES)
@given(text=texts())
def test_probabilities_are_probabilities(index: Index, text: list[int]) -> None:
    paths = drafted(index, text)
    assert list(paths.values()) == sorted(paths.values(), reverse=True)
    for parent in [(), *paths]:
        children = sum(paths[path] for path in paths if path[:-1] == parent and len(path) == len(parent) + 1)
        assert children < paths.get(parent, 1.0), "what follows a node is never certain"


@pytest.mark.parametrize("index", INDEXES)
@given(text=texts(), nodes=st.integers(1, 30))
def test_a_smaller_tree_is_the_beginning_of_a_larger_one(index: Index, text: list[int], nodes: int) -> None:
    assert list(drafted(index, text, nodes)) == list(drafted(index, text, 64))[: nodes - 1]


@pytest.mark.parametrize("index", INDEXES)
def test_all_matches_count(index: Index) -> None:
    # 1 was followed by 2, by 3 and by 3; only the first time did 9 stand before it, as it does now.
    paths = drafted(index, [9, 1, 2, 5, 1, 3, 6, 1, 3, 7, 9, 1], depth=1)
    assert list(paths) == [(2,), (3,)], "the longest match first, and no other is forgotten"


@pytest.mark.parametrize("index", INDEXES)
def test_a_long_match_behind_many_short_ones(index: Index) -> None:
    rare = [1, 2, 3, 4, 0]
    text = [*rare, 77] + [0, 5] * 500 + rare
    assert next(iter(drafted(index, text))) == (77,)


@pytest.mark.parametrize("index", INDEXES)
def test_trust_is_learnt_from_the_text(index: Index) -> None:
    repeating = [1, 2, 3, 4, 5, 6, 7, 8] * 6
    fooled = [token for i in range(24) for token in (1, 100 + i)] + [1]  # what followed 1 never follows it again
    assert drafted(index, repeating)[(1,)] > 0.9
    assert sum(probability for path, probability in drafted(index, fooled).items() if len(path) == 1) < 0.2


@pytest.mark.parametrize("index", INDEXES)
def test_nothing_known(index: Index) -> None:
    assert drafted(index, [1, 2, 3]) == {}
    assert drafted(index, [1, 1], depth=0) == {}
    with pytest.raises(ValueError, match="NgramIndex: the text must have a token before its first draft"):
        index().draft(4, 4)
