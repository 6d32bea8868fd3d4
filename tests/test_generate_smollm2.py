"""A real model writes with every drafter what transformers' greedy decoding writes, token for token, in float32.

Where they part, transformers' two best logits must be closer than `MARGIN`, and the place is reported. The small grid
is a prompt of each kind and 32 tokens; the whole one, all prompts and 128 tokens, runs by `make test-all`.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from mtp_ext.decoding import (
    Drafter,
    DraftModel,
    HeadsDrafter,
    PreparedModel,
    PromptLookup,
    TransformersTarget,
    first_layers,
    generate,
)
from mtp_ext.decoding import prepare as prepare_model
from mtp_ext.heads import SMOLLM2_HEADS, MTPHeads
from mtp_ext.integrations.transformers import load_model
from mtp_ext.testing import has_kernel, threads
from mtp_ext.testing_prompts import KINDS, Prompt, load_prompts

pytestmark = pytest.mark.skipif(not has_kernel("skinny_linear", "cpu"), reason="takes an hour on the reference")

MARGIN = 1e-4
PROMPTS = load_prompts()
DRAFTERS = ("none", "lookup", "first layers", "itself", "heads")
SMALL, WHOLE = 32, 128

real_model = cache(load_model)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The text does not depend on it, and thousands of small regions on shared cores wait for each other."""
    with threads(1):
        yield


@cache
def prepared(storage: str) -> PreparedModel:
    """Stored in bfloat16: a copy of the model, its weights rounded to such numbers."""
    model, _ = real_model() if storage == "float32" else rounded_model()
    return prepare_model(model, storage=storage)


@cache
def rounded_model():
    model, tokenizer = load_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model, tokenizer


@dataclass(frozen=True)
class Written:
    """What transformers writes, and at each token how far its best logit is ahead of the second."""

    tokens: list[int]
    gaps: list[float]


@cache
def expected(prompt: Prompt, storage: str, new_tokens: int) -> Written:
    model, tokenizer = real_model() if storage == "float32" else rounded_model()
    ids = prompt.input_ids(tokenizer)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(output.logits)[:, 0].topk(2).values
    return Written(output.sequences[0, ids.shape[1] :].tolist(), (best[:, 0] - best[:, 1]).tolist())


@cache
def drafter(name: str, storage: str) -> Drafter | None:
    if name == "none":
        return None
    if name == "lookup":
        return PromptLookup()
    if name == "itself":
        return DraftModel(prepared(storage))
    if name == "heads":
        return HeadsDrafter(MTPHeads.from_pretrained(SMOLLM2_HEADS, prepared(storage).model))
    return DraftModel(prepare_model(first_layers(prepared(storage).model, 6), storage=storage), least_mass=0.1)


def check(prompt: Prompt, written: list[int], storage: str, new_tokens: int, what: str) -> None:
    """Fails where the texts part at a place that is no tie; reports ties."""
    truth = expected(prompt, storage, new_tokens)
    pairs = enumerate(zip(written, truth.tokens, strict=False))
    parting = next((place for place, (ours, theirs) in pairs if ours != theirs), None)
    if parting is None:
        assert len(written) == len(truth.tokens)
        return
    where = f"{what}: parts from transformers at token {parting + 1} of {prompt.text.strip()[:40]!r}"
    assert truth.gaps[parting] < MARGIN, f"{where}, where its best logit is {truth.gaps[parting]:.2g} ahead"
    warnings.warn(f"{where}: a tie within {truth.gaps[parting]:.2g}", stacklevel=2)


def decode(prompts: list[Prompt], name: str, storage: str, new_tokens: int, budget: int | None) -> None:
    """One batch, padded on the left."""
    tokenizer = real_model()[1]
    texts = [prompt.input_ids(tokenizer)[0] for prompt in prompts]
    longest = max(map(len, texts))
    ids, mask = torch.zeros(2, len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, longest - len(text) :], mask[row, longest - len(text) :] = text, 1
    target = prepared(storage)
    proposed = drafter(name, storage)
    generation = generate(target, ids, proposed, max_new_tokens=new_tokens, attention_mask=mask, budget=budget)
    for prompt, written in zip(prompts, generation.new_tokens, strict=True):
        check(prompt, written.tolist(), storage, new_tokens, f"{name}, {storage}, batch of {len(prompts)}")


def one_of_each_kind() -> list[Prompt]:
    return [next(prompt for prompt in PROMPTS if prompt.kind == kind) for kind in KINDS]


def test_there_are_prompts_of_five_kinds() -> None:
    assert len(PROMPTS) >= 20
    assert {prompt.kind for prompt in PROMPTS} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_drafter(kind: str) -> None:
    prompt = next(prompt for prompt in PROMPTS if prompt.kind == kind)
    for name in DRAFTERS:
        decode([prompt], name, "float32", SMALL, budget=None if name == "lookup" else 6)


def test_a_batch_of_four() -> None:
    for name in ("none", "lookup", "first layers", "heads"):
        decode(one_of_each_kind()[:4], name, "float32", SMALL, budget=None if name == "lookup" else 6)


def test_stored_in_bfloat16() -> None:
    decode(one_of_each_kind()[:1], "lookup", "bfloat16", SMALL, budget=None)


def test_transformers_pass() -> None:
    model, tokenizer = real_model()
    prompt = one_of_each_kind()[0]
    generation = generate(
        TransformersTarget(model), prompt.input_ids(tokenizer), "lookup", max_new_tokens=SMALL, budget=8
    )
    check(prompt, generation.new_tokens[0].tolist(), "float32", SMALL, "transformers' pass")


@pytest.mark.exhaustive
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("place", range(len(PROMPTS)))
def test_whole_grid(place: int, name: str, storage: str) -> None:
    for budget in (None,) if name == "none" else (None, 12):
        decode([PROMPTS[place]], name, storage, WHOLE, budget)


@pytest.mark.exhaustive
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("first", range(0, len(PROMPTS), 4))
def test_whole_grid_in_batches(first: int, name: str, storage: str) -> None:
    batch = [PROMPTS[(first + 5 * i) % len(PROMPTS)] for i in range(4)]  # of different kinds
    decode(batch, name, storage, WHOLE, None)
