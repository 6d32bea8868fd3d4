"""Sampling with drafts: the model's own distribution, and the same text for the same seed, whoever else is there."""

import itertools

import pytest
import torch
from drafters import Foresight
from torch import Tensor
from tree_models import tree_model

from mtp_ext.decoding import Drafter, DraftModel, PromptLookup, TransformersTarget, generate

VOCAB, TOP_K, NEW = 256, 3, 3
PROMPT = [7, 8, 9, 11, 7, 8, 9, 30, 7, 8, 9]
FALSE_ALARMS = 1e-6  # of a test whose claim holds, over all seeds


@pytest.fixture(scope="module")
def target() -> TransformersTarget:
    model = tree_model("llama")
    model.generation_config.eos_token_id = None
    return TransformersTarget(model)


def exact(target: TransformersTarget, temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of each continuation of `NEW` tokens, under the `TOP_K` best tokens at each place."""
    probabilities: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NEW):
        paths = list(probabilities)
        logits = target.model(torch.tensor([[*PROMPT, *path] for path in paths])).logits[:, -1].double()
        best = logits.topk(TOP_K)
        shares = (best.values / temperature).softmax(-1)
        probabilities = {
            (*path, token): probabilities[path] * share
            for path, tokens, row in zip(paths, best.indices.tolist(), shares.tolist(), strict=True)
            for token, share in zip(tokens, row, strict=True)
        }
    return probabilities


def false_alarm(counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> float:
    """The p-value of Pearson's chi-squared test; outcomes that are expected less than five times are one."""
    samples = sum(counts.values())
    rare = {path for path, probability in expected.items() if probability * samples < 5}
    cells = [(counts.get(path, 0), expected[path] * samples) for path in expected if path not in rare]
    cells.append((sum(counts.get(path, 0) for path in rare), sum(expected[path] for path in rare) * samples))
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells if mean > 0)
    freedom = sum(mean > 0 for _, mean in cells) - 1
    return float(torch.special.gammaincc(torch.tensor(freedom / 2).double(), torch.tensor(statistic / 2).double()))


def samples(
    target: TransformersTarget, drafter: Drafter | None, temperature: float, seed: int, batch: int = 500
) -> list[tuple[int, ...]]:
    ids = torch.tensor([PROMPT] * batch)
    generation = generate(
        target, ids, drafter, max_new_tokens=NEW, temperature=temperature, top_k=TOP_K, budget=7, seed=seed
    )
    return [tuple(tokens.tolist()) for tokens in generation.new_tokens]


@pytest.mark.parametrize("temperature", [0.7, 2.0])
@pytest.mark.parametrize("name", ["none", "lookup", "itself", "foresight"])
def test_distribution(target: TransformersTarget, name: str, temperature: float) -> None:
    expected = exact(target, temperature)
    likely = max(expected, key=lambda path: expected[path])
    drafter: Drafter | None = {
        "none": lambda: None,
        "lookup": PromptLookup,
        "itself": lambda: DraftModel(target, depth=2, width=3, least_mass=0.0),
        "foresight": lambda: Foresight([likely] * 500, VOCAB),
    }[name]()
    counts: dict[tuple[int, ...], int] = {}
    for path in itertools.chain.from_iterable(samples(target, drafter, temperature, seed) for seed in range(4)):
        counts[path] = counts.get(path, 0) + 1
    assert set(counts) <= set(expected)
    assert false_alarm(counts, expected) > FALSE_ALARMS


def test_the_test_can_fail(target: TransformersTarget) -> None:
    counts: dict[tuple[int, ...], int] = {}
    for path in itertools.chain.from_iterable(samples(target, None, 0.9, seed) for seed in range(4)):
        counts[path] = counts.get(path, 0) + 1
    assert false_alarm(counts, exact(target, 0.7)) < FALSE_ALARMS


def written(target: TransformersTarget, ids: Tensor, **options: object) -> list[list[int]]:
    settings = {"max_new_tokens": 16, "temperature": 1.0, "top_p": 0.9, "budget": 6, "seed": 5} | options
    return [tokens.tolist() for tokens in generate(target, ids, "lookup", **settings).new_tokens]


def test_a_seed_repeats_itself(target: TransformersTarget) -> None:
    ids = torch.tensor([PROMPT])
    first = written(target, ids)
    assert written(target, ids) == first
    assert written(target, ids, seed=6) != first
    torch.manual_seed(3)
    second = written(target, ids, seed=None)
    torch.manual_seed(3)
    assert written(target, ids, seed=None) == second
    assert written(target, ids, seed=None) != second


def test_others_in_the_batch_change_nothing(target: TransformersTarget) -> None:
    alone = written(target, torch.tensor([PROMPT]))
    other = torch.randint(0, VOCAB, (2, len(PROMPT)), generator=torch.Generator().manual_seed(0))
    together = written(target, torch.cat([torch.tensor([PROMPT]), other]))
    assert together[:1] == alone
    stop = together[1][4]
    assert stop not in alone[0]
    assert written(target, torch.cat([torch.tensor([PROMPT]), other]), stop_tokens=[stop])[:1] == alone


def test_temperature_zero_is_greedy(target: TransformersTarget) -> None:
    ids = torch.tensor([PROMPT])
    greedy = written(target, ids, temperature=0.0)
    assert written(target, ids, temperature=0.0, seed=9) == greedy
    assert written(target, ids, top_k=1) == greedy


def test_typical_is_taken(target: TransformersTarget) -> None:
    assert len(written(target, torch.tensor([PROMPT]), method="typical")[0]) == 16
