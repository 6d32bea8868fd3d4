"""The prompts of prompts.toml, for tests and benchmarks, and what transformers' greedy decoding writes behind them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = ("code edit", "code continuation", "open text", "summary", "copy")


@dataclass(frozen=True)
class Prompt:
    """A text of one of `KINDS`: a user's message, or where it is a continuation what the model shall go on with."""

    kind: str
    text: str
    continuation: bool = False

    def input_ids(self, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """int64 [1, tokens]."""
        if self.continuation:
            ids: Tensor = tokenizer(self.text.strip("\n"), return_tensors="pt").input_ids
            return ids
        message = [{"role": "user", "content": self.text.strip()}]
        return tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids


def load_prompts() -> list[Prompt]:
    """All of them, by kind."""
    data = tomllib.loads((Path(__file__).with_name("prompts.toml")).read_text(encoding="utf-8"))
    return [Prompt(**prompt) for prompt in data["prompts"]]


def transformers_greedy(model: PreTrainedModel, input_ids: Tensor, new_tokens: int) -> tuple[list[int], list[float]]:
    """What `model.generate` writes, and before each of these tokens by how much the best logit beats the second."""
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(output.logits)[:, 0].topk(2).values
    return output.sequences[0, input_ids.shape[1] :].tolist(), (best[:, 0] - best[:, 1]).tolist()
