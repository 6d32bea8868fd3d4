"""The cache after any sequence of steps is that of plain decoding: trees run, paths kept, requests that leave."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_models import oracle_of, path_to, prompts, random_tree, tree_model

from mtp_ext import commit_
from mtp_ext.decoding import Target, TransformersTarget, prepare
from mtp_ext.testing import assert_within_budget
from mtp_ext.verify import Accepted

TARGETS = {"transformers": TransformersTarget, "prepared": prepare}
MOST = 100  # tokens of a text


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param](tree_model("llama"))


def random_path(tree_nodes: list[list[int]], random: Random) -> list[int]:
    """One of these paths from the root, cut off anywhere."""
    path = random.choice(tree_nodes)
    return path[: random.randint(1, len(path))]


@settings(max_examples=15)
@given(st.integers(0, 9999), st.lists(st.integers(1, 18), min_size=1, max_size=4), st.booleans())
def test_rows_are_those_of_the_kept_tokens(target: Target, seed: int, sizes: list[int], left: bool) -> None:
    """Whatever is kept of random trees, in requests of different lengths; one of them leaves on the way."""
    random = Random(seed)
    ids, mask = prompts(left=left)
    cache = target.new_cache(len(ids), MOST)
    target.prefill(ids, cache, mask)
    texts = [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]
    for step, nodes in enumerate(sizes):
        tree = random_tree([random.randint(1, nodes) for _ in texts], "cpu", seed=seed + step)
        target.run_tree(tree, cache)
        counts, width = tree.node_counts.tolist(), tree.tokens.shape[1]
        paths = [random_path([path_to(tree, b, node) for node in range(n)], random) for b, n in enumerate(counts)]
        lengths = torch.tensor([len(path) for path in paths])
        kept = torch.tensor([path + [-1] * (width - len(path)) for path in paths])
        cache.lengths = commit_(cache.keys, cache.values, cache.lengths, Accepted(kept, lengths, lengths))
        texts = [text + tree.tokens[b, paths[b]].tolist() for b, text in enumerate(texts)]
        if len(texts) > 1 and random.random() < 0.3:
            going_on = sorted(random.sample(range(len(texts)), len(texts) - 1))
            cache, texts = cache.select(torch.tensor(going_on)), [texts[b] for b in going_on]
    assert (cache.lengths - cache.starts).tolist() == [len(text) for text in texts]
    for b, text in enumerate(texts):
        plain = target.new_cache(1, MOST)
        target.prefill(torch.tensor([text]), plain)
        exact = oracle_of(target.model)(torch.tensor([text]), use_cache=True).cache
        rows = slice(int(cache.starts[b]), int(cache.lengths[b]))
        for layer, oracle in enumerate(exact.layers):
            for ours, theirs, truth in (
                (cache.keys[layer], plain.keys[layer], oracle.keys),
                (cache.values[layer], plain.values[layer], oracle.values),
            ):
                assert_within_budget(ours[b, rows], theirs[0, : len(text)], truth[0].transpose(0, 1))
