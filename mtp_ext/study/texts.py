"""The texts of a study, as tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens before the first position that is predicted: fewer say little about what a text is.
CONTEXT = 32


@dataclass(frozen=True)
class Text:
    """One text: its kind (the name of its file), where it is from, and its tokens, int64 [length]."""

    kind: str
    path: Path
    tokens: Tensor


def shipped_texts() -> list[Path]:
    """The four pieces that come with the package."""
    folder = Path(__file__).parent / "texts"
    names = ("source_code", "technical_prose", "translation", "repetitive")
    return [folder / f"{name}.txt" for name in names]


def load_texts(paths: Iterable[Path], tokenizer: "PreTrainedTokenizerBase") -> list[Text]:
    """Reads and tokenizes UTF-8 text files; a file's name, without its ending, is its kind of text.

    Raises:
        ValueError: a file that cannot be read, is not UTF-8, or has the name of another one.
    """
    texts: dict[str, Text] = {}
    for path in paths:
        kind = path.stem.replace("_", " ")
        if kind in texts:
            raise ValueError(f"texts: each file must have its own name, got {texts[kind].path} and {path}")
        try:
            content = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"texts: {path} must be a readable file, got: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"texts: {path} must be UTF-8, which byte {error.start} is not") from error
        tokens = torch.tensor(tokenizer(content, verbose=False).input_ids, dtype=torch.int64)
        texts[kind] = Text(kind, path, tokens)
    return list(texts.values())


def sample_positions(text: Text, count: int) -> list[int]:
    """`count` positions t, ascending, evenly spread, each with `CONTEXT` tokens up to it and two tokens after it.

    Raises:
        ValueError: a text too short for so many.
    """
    length = text.tokens.shape[0]
    first, last = CONTEXT - 1, length - 3
    if last - first + 1 < count:
        raise ValueError(
            f"texts: {count} positions after {CONTEXT} tokens of context need a text of at least "
            f"{CONTEXT + count + 1} tokens, got {length} in {text.path}"
        )
    return [round(place) for place in torch.linspace(first, last, count, dtype=torch.float64).tolist()]
