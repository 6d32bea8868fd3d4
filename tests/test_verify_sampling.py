"""Laws of verify_sampling that are no matter of chance, and the same results as the reference."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import require_kernel

import mtp_ext
from mtp_ext.testing import assert_same_bits, threads
from mtp_ext.testing_trees import random_parents, siblings
from mtp_ext.testing_verify import METHODS, SAMPLED, VerifyCase, verify_case
from mtp_ext.verify import Accepted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.4},
    "hot": {"temperature": 2.0},
    "top-k": {"top_k": 40},
    "top-p": {"top_p": 0.9},
    "wide top-p": {"top_p": 0.9999, "temperature": 1.5},
    "min-p": {"min_p": 0.05},
    "all": {"temperature": 0.8, "top_k": 1000, "top_p": 0.95, "min_p": 0.001},
    "as good as none": {"top_k": 10**12, "top_p": 1.0, "min_p": 0.0},
    "one token": {"top_k": 1},
    "only the best": {"min_p": 1.0},
}
TREES = [random_parents(16, 3), random_parents(9, 1), siblings(16), [-1], random_parents(16, 16, 1), []]


def assert_agrees(actual: Accepted, case: VerifyCase, method: str, **settings: Any) -> int:
    """Fails unless a result is the reference's, for requests that no uniform decides within rounding: those whose
    result is the same when all uniforms, and top_p, are a little smaller and a little larger. Returns their number."""
    results = [case.reference(method, **settings)]
    for change in (-1e-5, 1e-5):
        moved = dict(settings)
        if settings.get("top_p", 1.0) < 1.0:
            moved["top_p"] = settings["top_p"] * (1.0 + change * (1.0 - settings["top_p"]))
        uniforms = (case.uniforms + change).clamp(0.0, 1.0 - 2**-24)
        results.append(case.changed(uniforms=uniforms).reference(method, **moved))
    certain = [
        b
        for b in range(len(case.tokens))
        if all(torch.equal(x[b], y[b]) for other in results[1:] for x, y in zip(results[0], other, strict=True))
    ]
    assert_same_bits([part[certain] for part in actual], [part[certain] for part in results[0]])
    return len(certain)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_equals_the_reference(device: str, method: str, settings: dict[str, Any]) -> None:
    case = verify_case(TREES, 9001, likeness=0.9)
    certain = assert_agrees(case.run(method, device, **settings), case, method, **settings)
    assert certain >= len(case.tokens) - 2


@given(
    st.integers(0, 9999),
    st.sampled_from(METHODS),
    st.sampled_from(list(SETTINGS)),
    st.sampled_from([1, 2, 3, 17, 513, 1031]),
    st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_any_case_equals_the_reference(
    device: str, seed: int, method: str, name: str, vocab: int, likeness: float, dtype: torch.dtype, strided: bool
) -> None:
    most = min(vocab, 5)  # siblings
    shapes = [random_parents(12, reach, seed) for reach in (1, 3)]
    if most < 5:
        shapes = [random_parents(6, 1, seed)] * 2
    case = verify_case(shapes, vocab, likeness=likeness, dtype=dtype, seed=seed)
    if seed % 3 == 0:  # zero probabilities, of the target and of the draft
        generator = torch.Generator().manual_seed(seed)
        case.logits[torch.rand(case.logits.shape, generator=generator) < 0.3] = -torch.inf
        case.draft_log_probs[torch.rand(case.draft_log_probs.shape, generator=generator) < 0.3] = -torch.inf
    if seed % 5 == 0:
        case.uniforms.fill_(0.0)
    case = case.strided() if strided else case
    assert_agrees(case.run(method, device, **SETTINGS[name]), case, method, **SETTINGS[name])


@pytest.mark.parametrize("method", METHODS)
def test_temperature_0_is_verify_greedy(device: str, method: str) -> None:
    case = verify_case(TREES, 1031, likeness=1.0)
    expected = mtp_ext.verify_greedy(mtp_ext.TokenTree(case.tokens, case.parents, validate=False), case.logits)
    assert_same_bits(case.run(method, device, temperature=0.0, top_k=3), expected)
    assert (expected.lengths > 1).any()


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_each_request(device: str, method: str) -> None:
    """A batch of different settings is the requests one by one."""
    case = verify_case(TREES[:4], 1031)
    columns = {
        "temperature": torch.tensor([0.0, 0.7, 1.0, 2.0]),
        "top_k": torch.tensor([3, 1031, 50, 7]),
        "top_p": torch.tensor([1.0, 0.9, 0.5, 1.0]),
        "min_p": torch.tensor([0.0, 0.1, 0.0, 0.01]),
    }
    together = case.run(method, device, **columns)
    for b in range(4):
        settings = {name: column[b].item() for name, column in columns.items()}
        assert_same_bits(case.requests([b]).run(method, device, **settings), [part[b : b + 1] for part in together])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}], ids=["plain", "top-p"])
def test_threads_place_and_layout(device: str, method: str, settings: dict[str, Any]) -> None:
    require_kernel("verify_sampling", device)
    case = verify_case(TREES, 40_009, likeness=0.9, seed=1)
    with threads(1):
        one = case.run(method, device, **settings)
    requests = list(range(len(case.tokens)))
    with threads(2):
        assert_same_bits(case.run(method, device, **settings), one)
        for chosen in (requests[::-1], *[[request] for request in requests]):
            assert_same_bits(case.requests(chosen).run(method, device, **settings), [part[chosen] for part in one])
    assert_same_bits(case.strided().run(method, device, **settings), one)


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(device: str, method: str) -> None:
    case = verify_case(TREES[:3], 1031)
    wider = verify_case(TREES[:3], 1031, nodes=20)
    fields = ("tokens", "parents", "draft_rows")
    padded = wider.changed(
        **{name: torch.nn.functional.pad(getattr(case, name), (0, 4), value=-2) for name in fields},
        logits=torch.nn.functional.pad(case.logits, (0, 0, 0, 4), value=torch.nan),
        uniforms=torch.cat([case.uniforms[:, :-1], torch.zeros(3, 4), case.uniforms[:, -1:]], 1),
        draft_log_probs=case.draft_log_probs,
    )
    expected = case.run(method, device)
    nodes, lengths, next_tokens = padded.run(method, device)
    assert_same_bits((nodes[:, :16], lengths, next_tokens), expected)
    assert (nodes[:, 16:] == -1).all()


# ---- What must not be written -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_impossible_drafts_are_never_accepted(device: str, method: str, settings: dict[str, Any]) -> None:
    """Not even at a uniform of 0; nor is an impossible token sampled, whatever the last uniform."""
    case = verify_case([siblings(6), random_parents(6, 1)] * 3, 1031, likeness=0.0)
    case.logits.scatter_(2, case.tokens[:, None].expand(-1, 6, -1), -torch.inf)
    case.uniforms.fill_(0.0)
    case.uniforms[2:4, -1] = 0.5
    case.uniforms[4:, -1] = 1.0 - 2**-24
    result = case.run(method, device, **settings)
    assert result.lengths.tolist() == [1] * 6
    for b, token in enumerate(result.next_tokens.tolist()):
        assert case.logits[b, 0, token] > -torch.inf


@pytest.mark.parametrize("method", SAMPLED)
def test_what_cannot_have_been_drawn_is_passed_over(device: str, method: str) -> None:
    """As if it were not in the tree."""
    case = verify_case([siblings(4)], 1031)
    tokens = case.tokens.clone()
    tokens[0, 3] = 5
    case.draft_log_probs[:, 5] = -torch.inf
    case.uniforms[0, :4] = torch.tensor([0.0, 1.0 - 2**-24, 1.0 - 2**-24, 0.0])
    shorter = VerifyCase(
        case.tokens[:, :3],
        case.parents[:, :3],
        case.logits[:, :3],
        case.uniforms[:, [0, 1, 2, 4]],
        case.draft_log_probs,
        case.draft_rows[:, :3],
    )
    expected, actual = shorter.run(method, device), case.changed(tokens=tokens).run(method, device)
    assert_same_bits([actual.lengths, actual.next_tokens], [expected.lengths, expected.next_tokens])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"temperature": 0.0}], ids=["plain", "top-p", "greedy"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_broken_logits_are_reported(device: str, method: str, settings: dict[str, Any], number: float) -> None:
    case = verify_case([random_parents(5, 1), [-1]], 9001, likeness=1.0)
    case.logits[:, 0] = number if number == -torch.inf else case.logits[:, 0]
    case.logits[:, 0, 8500] = number
    result = case.run(method, device, **settings)
    assert result.next_tokens.tolist() == [-1, -1]
    assert result.lengths.tolist() == [1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_broken_logits_that_nobody_needs_do_no_harm(device: str, method: str) -> None:
    case = verify_case([[-1, 0, 0]], 1031)
    case.uniforms[0, 1:3] = 1.0 - 2**-24
    case.logits[0, 0, case.tokens[0, 1:]] = -torch.inf
    case.logits[0, 1:] = torch.nan
    result = case.run(method, device)
    assert (result.lengths.tolist(), result.next_tokens.item() >= 0) == ([1], True)


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_draft_that_is_no_distribution_is_reported(device: str, method: str, number: float) -> None:
    """Where a refusal needs all of it."""
    case = verify_case([[-1, 0]], 9001, likeness=0.0)
    token = (int(case.tokens[0, 1]) + 1) % 9001
    case.draft_log_probs[0, token] = number
    case.uniforms[0, 1] = 1.0 - 2**-24
    assert case.run(method, device).next_tokens.tolist() == [-1]


@pytest.mark.parametrize("method", METHODS)
def test_a_request_without_nodes(device: str, method: str) -> None:
    case = verify_case([[], [-1, 0]], 17)
    result = case.run(method, device)
    assert (result.lengths[0].item(), result.next_tokens[0].item(), result.nodes[0].tolist()) == (0, -1, [-1, -1])


@pytest.mark.parametrize("method", METHODS)
def test_empty_batches(device: str, method: str) -> None:
    case = verify_case([[-1, 0]], 17).requests([])
    result = case.run(method, device)
    assert [part.shape for part in result] == [(0, 2), (0,), (0,)]


# ---- Typical acceptance -----------------------------------------------------------------------------------


def test_typical_takes_the_longest_path(device: str) -> None:
    """Of the two longest the more probable one, though a shorter one starts better."""
    logits = torch.zeros(1, 7, 8)
    case = verify_case([[-1, 0, 0, 0, 2, 3, 3]], 8).changed(tokens=torch.tensor([[0, 1, 2, 3, 4, 5, 6]]))
    logits[0, 0, 1:4] = torch.tensor([9.0, 8.5, 8.4])
    logits[0, 2, 4], logits[0, 3, 5:7] = 5.0, torch.tensor([7.0, 6.0])
    result = case.changed(logits=logits).run("typical", device)
    assert result.nodes[0, :3].tolist() == [0, 2, 4]
    logits[0, 2, 4] = 2.0
    result = case.changed(logits=logits).run("typical", device)
    assert result.nodes[0, :3].tolist() == [0, 3, 5]


@pytest.mark.parametrize(("token", "accepted"), [(3, True), (4, False)])
def test_the_threshold_of_typical(device: str, token: int, accepted: bool) -> None:
    """With epsilon out of the way, delta * exp(-entropy) divides the fourth token from the fifth."""
    probs = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    entropy = -(probs * probs.log()).sum()
    delta = float(0.075 * entropy.exp())
    case = verify_case([[-1, 0]], 5).changed(tokens=torch.tensor([[0, token]]), logits=probs.log().expand(1, 2, 5))
    assert case.run("typical", device, epsilon=1.0, delta=delta).lengths.tolist() == [1 + accepted]
    assert case.run("typical", device, epsilon=0.04, delta=1.0).lengths.tolist() == [2]
