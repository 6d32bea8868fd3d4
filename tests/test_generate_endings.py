"""Where texts end, what streams, and what is left when decoding breaks off."""

from pathlib import Path

import pytest
import torch
from drafters import Failing, Foresight
from tiny_model import byte_tokenizer
from torch import Tensor
from transformers import TextStreamer
from tree_models import tree_model

from mtp_ext.decoding import GenerationError, GenerationInterrupted, TransformersTarget, generate

NEW = 24
PROMPT = torch.tensor([[30, 31, 32, 30, 31, 32, 30, 31]])


@pytest.fixture(scope="module")
def target() -> TransformersTarget:
    model = tree_model("llama")
    model.generation_config.eos_token_id = None
    return TransformersTarget(model)


@pytest.fixture(scope="module")
def plain(target: TransformersTarget) -> list[int]:
    return generate(target, PROMPT, max_new_tokens=NEW).new_tokens[0].tolist()


def test_stop_tokens(target: TransformersTarget, plain: list[int]) -> None:
    for place in (0, 1, 5):
        stop = plain[place]
        expected = plain[: plain.index(stop) + 1]
        for drafter in (None, "lookup", Foresight([plain], 256)):
            generation = generate(target, PROMPT, drafter, max_new_tokens=NEW, stop_tokens=[stop, 1000], budget=9)
            assert generation.new_tokens[0].tolist() == expected
            assert generation.finish_reasons == ["stop token"]


def test_the_models_own_stop_tokens(plain: list[int]) -> None:
    model = tree_model("llama")
    for eos in (plain[5], [plain[5], 999]):
        model.generation_config.eos_token_id = eos
        generation = generate(model, PROMPT, "lookup", max_new_tokens=NEW)
        assert generation.new_tokens[0].tolist() == plain[: plain.index(plain[5]) + 1]
    assert generate(model, PROMPT, max_new_tokens=NEW, stop_tokens=()).new_tokens[0].tolist() == plain


def test_stop_strings(target: TransformersTarget, plain: list[int]) -> None:
    tokenizer = byte_tokenizer()
    for begin, end in ((0, 1), (3, 5), (2, 9)):
        string = tokenizer.decode(plain[begin:end])
        texts = [tokenizer.decode(plain[:count]) for count in range(NEW + 1)]
        count = next(count for count, text in enumerate(texts) if string in text)
        for drafter in (None, Foresight([plain], 256)):
            generation = generate(
                target,
                PROMPT,
                drafter,
                max_new_tokens=NEW,
                stop_strings=["never", string],
                tokenizer=tokenizer,
                budget=16,
            )
            assert generation.new_tokens[0].tolist() == plain[:count]
            assert generation.finish_reasons == ["stop string"]


class Heard:
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.values.append(value)

    def end(self) -> None:
        self.ended += 1


def test_streaming(target: TransformersTarget, plain: list[int]) -> None:
    heard = Heard()
    generation = generate(target, PROMPT, Foresight([plain], 256), max_new_tokens=NEW, budget=7, streamer=heard)
    assert torch.equal(heard.values[0], PROMPT)
    assert torch.cat(heard.values[1:]).tolist() == plain
    assert len(heard.values) == 2 + generation.statistics.passes
    assert heard.ended == 1


def test_transformers_streamer(
    target: TransformersTarget, plain: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = byte_tokenizer()
    generate(target, PROMPT, "lookup", max_new_tokens=NEW, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == tokenizer.decode(plain) + "\n"


def test_interrupt(target: TransformersTarget, plain: list[int]) -> None:
    heard = Heard()
    with pytest.raises(GenerationInterrupted) as interrupted:
        generate(Failing(target, 6, KeyboardInterrupt()), PROMPT, max_new_tokens=NEW, streamer=heard)
    partial = interrupted.value.partial
    assert partial.new_tokens[0].tolist() == plain[:7]
    assert partial.sequences[0].tolist() == PROMPT[0].tolist() + plain[:7]
    assert partial.finish_reasons == [None]
    assert partial.statistics.tokens == 7
    assert torch.cat(heard.values[1:]).tolist() == plain[:7]
    assert heard.ended == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers(target: TransformersTarget, plain: list[int], temperature: float) -> None:
    with pytest.raises(GenerationError) as failed:
        generate(Failing(target, 4, None), PROMPT, "lookup", max_new_tokens=NEW, budget=4, temperature=temperature)
    partial = failed.value.partial
    count = len(partial.new_tokens[0])
    assert count >= 5
    assert str(failed.value) == (
        f"generate: the model's logits must be numbers, got NaN or +inf for request 0 (after {count} tokens)"
    )
    if temperature == 0:
        assert partial.new_tokens[0].tolist() == plain[:count]


def test_a_failure_keeps_what_was_written(target: TransformersTarget, plain: list[int]) -> None:
    with pytest.raises(GenerationError, match=r"out of paper \(after 3 tokens\)") as failed:
        generate(Failing(target, 2, RuntimeError("out of paper")), PROMPT, max_new_tokens=NEW)
    assert failed.value.partial.new_tokens[0].tolist() == plain[:3]
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_refusals(target: TransformersTarget) -> None:
    def refusal(*arguments: object, **options: object) -> str:
        with pytest.raises((ValueError, TypeError)) as refused:
            generate(target, *(arguments or (PROMPT,)), **({"max_new_tokens": 4} | options))
        return str(refused.value)

    assert refusal(torch.empty(1, 0, dtype=torch.int64)) == (
        "generate: input_ids must hold a request, and of each at least one token, got [1, 0]"
    )
    assert refusal(PROMPT.repeat(2, 1), attention_mask=torch.tensor([[1] * 8, [0] * 8])) == (
        "generate: every prompt must hold a token, request 1 has none"
    )
    assert (
        refusal(PROMPT.float()) == "generate: input_ids must be [batch, tokens] int64 on cpu, got [1, 8] float32 on cpu"
    )
    assert refusal(max_new_tokens=0) == "generate: max_new_tokens must be from 1 to 2147483647, got 0"
    assert refusal(max_new_tokens=249) == (
        "generate: the prompt and max_new_tokens must fit into the model's 256 positions, got 8 + 249"
    )
    assert refusal(temperature=-0.5) == "generate: temperature must be 0, or from 1e-30 to 1e30, got -0.5"
    assert refusal(temperature=float("nan")) == "generate: temperature must be 0, or from 1e-30 to 1e30, got nan"
    assert refusal(top_k=0) == "generate: top_k must be from 1 to 2147483647, got 0"
    assert refusal(top_p=0.0) == "generate: top_p must be in (0, 1], got 0.0"
    assert refusal(top_p="much") == "generate: top_p must be a number, got str"
    assert refusal(min_p=1.5) == "generate: min_p must be in [0, 1], got 1.5"
    assert refusal(method="traversal") == "generate: method must be 'target_only' or 'typical', got 'traversal'"
    assert refusal(budget=0) == "generate: budget must be from 1 to 1024, got 0"
    assert refusal(PROMPT, "magic") == "generate: drafter must be 'lookup', a Drafter or None, got 'magic'"
    assert refusal(stop_strings=["x"]) == "generate: stop_strings need the tokenizer, got none"
    assert refusal(stop_strings=[""]) == (
        "generate: stop_strings must be a list of strings that are not empty, got ['']"
    )
    assert refusal(stop_tokens=["</s>"]) == "generate: stop_tokens must be integers, got str"
    assert refusal(PROMPT.repeat(2, 1), streamer=Heard()) == "generate: streamer needs a batch of one request, got 2"
    with pytest.raises(
        TypeError, match="TransformersTarget: model must be a transformers PreTrainedModel, got PosixPath"
    ):
        generate(Path(), PROMPT, max_new_tokens=1)
