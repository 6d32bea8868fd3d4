"""Prompts for tests and benchmarks of decoding: those of testing_prompts.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

KINDS = ("code edit", "code continuation", "open text", "summary", "copy")


@dataclass(frozen=True)
class Prompt:
    """A text of one of `KINDS`: a user's message, or where it is a continuation what the model shall go on with."""

    kind: str
    text: str
    continuation: bool = False

    def input_ids(self, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """int64 [1, tokens]."""
        ids: Tensor
        if self.continuation:
            ids = tokenizer(self.text.strip("\n"), return_tensors="pt").input_ids
            return ids
        message = [{"role": "user", "content": self.text.strip()}]
        ids = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
        return ids


def load_prompts() -> list[Prompt]:
    """All of them, by kind."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return [Prompt(**prompt) for prompt in data["prompts"]]
