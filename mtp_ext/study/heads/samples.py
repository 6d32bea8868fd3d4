"""The text that heads learn from, and the places where all strategies are asked for the next two tokens."""

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtp_ext.heads.training.data import Block, read_blocks
from mtp_ext.study.texts import CONTEXT, Text, sample_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT = "held-out training text"
_PLACES = 8  # of one held-out block: so near to each other, more say little more


@dataclass(frozen=True)
class Sample:
    """A text, and the positions t of it whose tokens t+1 and t+2 are predicted."""

    text: Text
    positions: Sequence[int]


@dataclass(frozen=True)
class Samples:
    """Blocks to learn from, and what is predicted."""

    blocks: Sequence[Block]
    held_out: Sequence[Sample]

    @property
    def tokens(self) -> int:
        """Of the blocks."""
        return sum(len(block.tokens) for block in self.blocks)

    def identity(self) -> dict[str, object]:
        """What results depend on, for JSON."""
        digest = hashlib.sha256()
        for tokens in [*(block.tokens for block in self.blocks), *(sample.text.tokens for sample in self.held_out)]:
            digest.update(tokens.numpy().tobytes())
        positions = [list(sample.positions) for sample in self.held_out]
        return {"training_tokens": self.tokens, "sha256": digest.hexdigest(), "positions": positions}


def standard_library() -> list[Path]:
    """The modules of Python's standard library: text that is on every machine that runs this."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def draw_samples(
    paths: Sequence[Path],
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    block: int,
    training_tokens: int,
    positions: int,
) -> Samples:
    """Reads the training text, keeps its end apart, and chooses the places.

    Args:
        paths: files and folders to learn from, as `mtp-ext train` takes them.
        texts: other held-out texts.
        tokenizer: of the model.
        block: tokens of a block at most.
        training_tokens: how many are learned from, about; drawn at random, and the same ones each time.
        positions: of each text, and of the held-out end of the training text.

    Raises:
        ValueError, FileNotFoundError: nothing usable in the paths, too little to learn from and hold out, or a text
            too short for so many positions.
    """
    blocks = read_blocks(paths, tokenizer, block)
    whole = [block for block in blocks if len(block.tokens) >= CONTEXT + _PLACES + 1]
    held = -(-positions // _PLACES)
    if len(whole) < 2 * held:
        raise ValueError(
            f"study: --train must hold at least {2 * held} blocks of {CONTEXT + _PLACES + 1} tokens for {positions} "
            f"held-out positions, got {len(whole)}"
        )
    first_held_out = whole[-held]
    end = next(place for place, block in enumerate(blocks) if block is first_held_out)
    order = torch.randperm(end, generator=torch.Generator().manual_seed(0)).tolist()
    chosen, tokens = [], 0
    for place in order:
        if tokens >= training_tokens:
            break
        chosen.append(blocks[place])
        tokens += len(blocks[place].tokens)
    ends = [Text(HELD_OUT, Path(f"{HELD_OUT} {number}"), block.tokens) for number, block in enumerate(whole[-held:])]
    samples = [Sample(text, sample_positions(text, _PLACES)) for text in ends]
    return Samples(chosen, [*samples, *(Sample(text, sample_positions(text, positions)) for text in texts)])
