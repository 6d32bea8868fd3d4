"""Text that a model writes itself, from prompts: what trains the best drafts, for what counts in decoding is what this
model would say."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_POOL = 4  # batches whose prompts are sorted by length, so that there is little padding


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, as a user's message, or where it is no chat a text that it shall go on with.

    Attributes:
        text: of the message.
        chat: whether it goes through the tokenizer's chat template.
        kind: of text, for accuracy by kind.
        source: where it comes from, to be read by people.
    """

    text: str
    chat: bool = True
    kind: str = "text"
    source: str = ""

    def tokens(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        if not self.chat:
            return list(tokenizer(self.text).input_ids)
        message = [{"role": "user", "content": self.text}]
        return list(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True).input_ids)


def read_prompts(file: Path) -> list[Prompt]:
    """One a line, as JSON: `text` and, where they differ from the defaults, the other fields.

    Raises:
        ValueError: a line that is something else.
    """
    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            prompts.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"train: a line of prompts must be an object with text, got {file}, line {number}: {error}"
            ) from error
    return prompts


def write_answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    file: Path,
    *,
    new_tokens: int = 200,
    batch: int = 128,
    progress: Callable[[int], object] = lambda prompts: None,
) -> None:
    """Appends to a .jsonl file, greedily, what `read_blocks` reads; prompts that are answered there are left out.

    Args:
        model: in evaluation mode; in bfloat16 it writes about twice as fast and almost the same.
        tokenizer: its own.
        prompts: all different.
        file: each answer is one line, written as soon as its batch is.
        new_tokens: of an answer at most.
        batch: requests at a time; from 65 on products are as fast as they get.
        progress: is told of prompts that are done.
    """
    from mtp_ext.decoding import generate, prepare

    answered = _answered(file)
    progress(len(answered))
    wanted = [(prompt, prompt.tokens(tokenizer)) for prompt in prompts if prompt.text not in answered]
    arithmetic = str(model.dtype).removeprefix("torch.")
    with prepare(model, arithmetic=arithmetic) as prepared:
        for group in _groups(wanted, batch):
            input_ids, mask = _padded([tokens for _, tokens in group])
            generation = generate(prepared, input_ids, None, max_new_tokens=new_tokens, attention_mask=mask, budget=1)
            with file.open("a", encoding="utf-8") as lines:
                for (prompt, tokens), new in zip(group, generation.new_tokens, strict=True):
                    answer = {"prompt_tokens": len(tokens), "tokens": tokens + new.tolist()}
                    lines.write(json.dumps({**asdict(prompt), **answer}) + "\n")
            progress(len(group))


def _answered(file: Path) -> set[str]:
    """The prompts in a file; a last line that was cut short is taken off it."""
    if not file.exists():
        return set()
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        file.write_text("".join(lines), encoding="utf-8")
    return {json.loads(line)["text"] for line in lines}


def _groups(wanted: list[tuple[Prompt, list[int]]], batch: int) -> list[list[tuple[Prompt, list[int]]]]:
    groups = []
    for start in range(0, len(wanted), batch * _POOL):
        similar = sorted(wanted[start : start + batch * _POOL], key=lambda pair: len(pair[1]))
        groups += [similar[i : i + batch] for i in range(0, len(similar), batch)]
    return groups


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts with padding before them, and the mask, each int64 [prompts, tokens]."""
    width = max(map(len, rows))
    input_ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        input_ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return input_ids, mask
