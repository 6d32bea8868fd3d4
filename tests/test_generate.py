"""Laws of the decoding loop, on small random models: plain decoding's text and cache, whoever drafts."""

from collections.abc import Sequence

import pytest
import torch
from drafters import Foresight, Recorded
from torch import Tensor
from tree_models import oracle_of, tree_model

from mtp_ext.decoding import Drafter, DraftModel, Generation, PromptLookup, TransformersTarget, first_layers, generate
from mtp_ext.testing import assert_within_budget

VOCAB, NEW = 256, 24
LENGTHS = (9, 30, 17, 1)


def prompts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    """Texts that repeat themselves in part."""
    torch.manual_seed(1)
    texts = [torch.randint(0, VOCAB, (length,)).tolist() for length in lengths]
    return [(text[: length // 3] + text)[:length] for text, length in zip(texts, lengths, strict=True)]


def padded(texts: list[list[int]], side: str = "left") -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask."""
    longest = max(map(len, texts))
    rows, masks = [], []
    for text in texts:
        padding, real = [0] * (longest - len(text)), [1] * len(text)
        rows.append(padding + text if side == "left" else text + padding)
        masks.append([0] * len(padding) + real if side == "left" else real + [0] * len(padding))
    return torch.tensor(rows), torch.tensor(masks)


@pytest.fixture(scope="module")
def target() -> TransformersTarget:
    model = tree_model("llama")
    model.generation_config.eos_token_id = None
    return TransformersTarget(model)


@pytest.fixture(scope="module")
def plain(target: TransformersTarget) -> list[list[int]]:
    """What the model writes behind each of the prompts, by transformers' own greedy decoding."""
    texts = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        output = target.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        texts.append(output[0, len(prompt) :].tolist())
    return texts


def drafter(name: str, target: TransformersTarget, texts: list[list[int]]) -> Drafter | None:
    return {
        "none": lambda: None,
        "lookup": PromptLookup,
        "itself": lambda: DraftModel(target),
        "first layer": lambda: DraftModel(first_layers(target.model, 1), depth=3, width=2, least_mass=0.0),
        "foresight": lambda: Foresight(texts, VOCAB),
    }[name]()


DRAFTERS = ("none", "lookup", "itself", "first layer", "foresight")


def new_tokens(generation: Generation) -> list[list[int]]:
    return [tokens.tolist() for tokens in generation.new_tokens]


def consistent(generation: Generation) -> None:
    """The statistics add up."""
    statistics, seconds = generation.statistics, generation.statistics.seconds
    assert statistics.tokens == sum(map(len, generation.new_tokens))
    assert statistics.passes == sum(statistics.budgets.values()) <= statistics.request_passes
    assert statistics.first_tokens == len(generation.new_tokens)
    assert 0 <= statistics.accepted <= statistics.drafted
    # Each pass of a request writes what was accepted and one token more, but where the text ends before that one.
    written = statistics.tokens - statistics.first_tokens
    assert statistics.request_passes - len(generation.new_tokens) <= written - statistics.accepted
    assert written - statistics.accepted <= statistics.request_passes
    assert seconds.decoding > 0
    assert min(seconds.prefill, seconds.drafting, seconds.forward, seconds.verification, seconds.loop) >= 0
    assert statistics.explanation


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("budget", [1, 7, None])
def test_greedy_is_plain_decoding(
    target: TransformersTarget, plain: list[list[int]], name: str, budget: int | None
) -> None:
    for prompt, expected in zip(prompts()[2:], plain[2:], strict=True):
        proposed = drafter(name, target, [expected])
        generation = generate(target, torch.tensor([prompt]), proposed, max_new_tokens=NEW, budget=budget)
        assert new_tokens(generation) == [expected]
        assert generation.sequences[0].tolist() == prompt + expected
        assert generation.finish_reasons == ["length"]
        consistent(generation)
        if name in ("itself", "foresight") and budget == 7:
            assert generation.statistics.tokens_per_pass > 2


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches(target: TransformersTarget, plain: list[list[int]], name: str, side: str) -> None:
    ids, mask = padded(prompts(), side)
    proposed = drafter(name, target, plain)
    generation = generate(target, ids, proposed, max_new_tokens=NEW, attention_mask=mask, budget=7)
    assert new_tokens(generation) == plain
    assert [sequence.tolist() for sequence in generation.sequences] == [
        prompt + text for prompt, text in zip(prompts(), plain, strict=True)
    ]
    consistent(generation)


def test_finished_requests_leave(target: TransformersTarget, plain: list[list[int]]) -> None:
    stop = plain[1][3]
    expected = [text[: text.index(stop) + 1] if stop in text else text for text in plain]
    assert len({len(text) for text in expected}) > 1
    for name in DRAFTERS:
        recorded = Recorded(target)
        ids, mask = padded(prompts())
        proposed = drafter(name, target, plain)
        generation = generate(
            recorded, ids, proposed, max_new_tokens=NEW, attention_mask=mask, stop_tokens=[stop], budget=4
        )
        assert new_tokens(generation) == expected
        assert generation.finish_reasons == ["length" if len(text) == NEW else "stop token" for text in expected]
        batches = [batch for batch, _ in recorded.passes]
        assert batches == sorted(batches, reverse=True)
        assert batches[-1] <= sum(len(text) == NEW for text in expected) < batches[0]
        assert sum(batches) == generation.statistics.request_passes
        consistent(generation)


@pytest.mark.parametrize("name", DRAFTERS)
def test_the_cache_is_that_of_plain_decoding(target: TransformersTarget, plain: list[list[int]], name: str) -> None:
    prompt, expected = prompts()[0], plain[0]
    oracle = oracle_of(target.model)(torch.tensor([prompt + expected[:-1]]), use_cache=True).past_key_values
    caches = []
    for proposed in (None, drafter(name, target, [expected])):
        recorded = Recorded(target)
        generate(recorded, torch.tensor([prompt]), proposed, max_new_tokens=NEW, budget=6)
        caches.append(recorded.caches[0])
    reference, actual = caches
    rows = len(prompt) + NEW - 1  # the last token has never been run
    assert int(reference.lengths) == rows
    assert int(actual.lengths) >= rows - 6
    rows = min(rows, int(actual.lengths))
    for layer, exact in enumerate(oracle.layers):
        for ours, theirs, rows_of in (
            (actual.keys, reference.keys, exact.keys),
            (actual.values, reference.values, exact.values),
        ):
            expected_rows = rows_of.transpose(1, 2)[:, :rows]
            assert_within_budget(ours[layer][:, :rows], theirs[layer][:, :rows], expected_rows)


def test_requests_of_any_length(target: TransformersTarget, plain: list[list[int]]) -> None:
    for count in (1, 2, 3):
        generation = generate(target, torch.tensor([prompts()[0]]), "lookup", max_new_tokens=count)
        assert new_tokens(generation) == [plain[0][:count]]
        assert generation.statistics.tokens == count


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_oss"])
def test_other_families(family: str) -> None:
    model = tree_model(family)
    ids = torch.tensor([prompts()[1]])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    written = [tokens - 1 for tokens in expected[0].tolist()]  # a drafter that is always wrong, and one that is right
    for proposed in (
        PromptLookup(),
        Foresight([written], VOCAB),
        Foresight([expected[0, ids.shape[1] :].tolist()], VOCAB),
    ):
        generation = generate(model, ids, proposed, max_new_tokens=NEW, budget=8, stop_tokens=())
        assert generation.sequences[0].tolist() == expected[0].tolist()


def test_plain_passes_are_plain(target: TransformersTarget) -> None:
    recorded = Recorded(target)
    generate(recorded, torch.tensor([prompts()[0]]), max_new_tokens=NEW)
    assert recorded.passes == [(1, 1)] * (NEW - 1), "nothing measured, nothing drafted"
