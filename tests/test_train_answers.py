"""Text that a model writes for its heads to learn: its own greedy continuation, once for each prompt."""

import json

import pytest
import torch

from mtp_ext.heads.training.answers import Prompt, read_prompts, write_answers
from mtp_ext.heads.training.data import read_blocks
from tests.training_cases import VOCAB, tiny_model

PROMPTS = [Prompt("one two three", chat=False, kind="counting"), Prompt("a much longer prompt than that", chat=False)]


class _Words:
    """A tokenizer: a token is a word."""

    def __call__(self, text, verbose=True):
        return type("Encoding", (), {"input_ids": [sum(map(ord, word)) % VOCAB for word in text.split()]})


def test_answers_are_greedy_and_are_written_once(tmp_path):
    model, file = tiny_model(), tmp_path / "answers.jsonl"
    write_answers(model, _Words(), PROMPTS[:1], file, new_tokens=10)
    with file.open("a") as lines:
        lines.write('{"text": "a much lon')  # a run that was killed
    told = []
    write_answers(model, _Words(), PROMPTS, file, new_tokens=10, progress=told.append)
    assert told == [1, 1]
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert [answer["text"] for answer in answers] == [prompt.text for prompt in PROMPTS]
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = prompt.tokens(_Words())
        with torch.no_grad():
            for _ in range(10):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer["tokens"] == ids
    blocks = read_blocks([file], _Words(), 64)
    assert [(block.first_target, block.kind) for block in blocks] == [(3, "counting"), (6, "text")]


def test_prompts_are_read_and_a_wrong_line_is_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "hello"}\n')
    assert read_prompts(file) == [Prompt("hello")]
    file.write_text('{"text": "hello"}\n{"words": "hello"}\n')
    with pytest.raises(ValueError, match=r"^train: a line of prompts must be an object with text, got .*, line 2: "):
        read_prompts(file)
