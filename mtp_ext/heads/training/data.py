"""Text as blocks of tokens, and blocks as batches."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHORTEST = 8  # tokens of a block: below, hardly a position has a target


@dataclass(frozen=True)
class Block:
    """Tokens that follow each other in one document.

    Attributes:
        tokens: int64 [tokens], on the CPU.
        first_target: the first place whose token is to be learned; those before it, a prompt, are only read.
        kind: of text, for validation by kind.
    """

    tokens: Tensor
    first_target: int = 1
    kind: str = "text"


@dataclass(frozen=True)
class Batch:
    """Blocks side by side, padded at the end.

    Attributes:
        input_ids: int64 [blocks, tokens]; padding is token 0.
        lengths: int64 [blocks].
        first_targets: int64 [blocks].
        places: the blocks' numbers in the data.
    """

    input_ids: Tensor
    lengths: Tensor
    first_targets: Tensor
    places: tuple[int, ...]

    def positions(self, horizon: int) -> Tensor:
        """Where a head of this horizon has a target to learn: bool [blocks, tokens]."""
        target = torch.arange(self.input_ids.shape[1], device=self.input_ids.device) + horizon
        return (target < self.lengths[:, None]) & (target >= self.first_targets[:, None])

    def targets(self, horizon: int) -> Tensor:
        """The tokens at these positions plus the horizon, in their order: int64 [rows]."""
        return self.input_ids.roll(-horizon, 1)[self.positions(horizon)]


def read_blocks(paths: Sequence[Path], tokenizer: "PreTrainedTokenizerBase", length: int) -> list[Block]:
    """All text below these paths, cut into blocks of at most `length` tokens.

    Args:
        paths: files or folders. A line of a .jsonl file is a document: `text`, or `tokens` with, where a model has
            written on from a prompt, `prompt_tokens`, their number; `kind` names the kind of text. Any other UTF-8
            file is one document, whose kind is the name of its parent folder.
        tokenizer: of the model.
        length: of a block, in tokens.

    Raises:
        FileNotFoundError: no such path.
        ValueError: nothing usable, or a line of a .jsonl file that is something else.
    """
    blocks: list[Block] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"train: text must be a file or a folder, got {path}, which is not there")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            for document in _documents(file, tokenizer):
                blocks += _cut(document, length)
    if not blocks:
        names = ", ".join(map(str, paths))
        raise ValueError(f"train: text must hold UTF-8 files of at least {_SHORTEST} tokens, found none in {names}")
    return blocks


def collate(blocks: Sequence[Block], places: Sequence[int], device: torch.device | str = "cpu") -> Batch:
    """These blocks, by their places, as a batch. Without any it is one row without a token to learn: models do not
    take a batch of none, and a process that has none to learn from still takes part in the step."""
    chosen = [blocks[place] for place in places] or [Block(torch.zeros(1, dtype=torch.int64))]
    width = max(len(block.tokens) for block in chosen)
    input_ids = torch.zeros(len(chosen), width, dtype=torch.int64)
    for row, block in zip(input_ids, chosen, strict=True):
        row[: len(block.tokens)] = block.tokens
    lengths = torch.tensor([len(block.tokens) for block in chosen], dtype=torch.int64)
    first = torch.tensor([block.first_target for block in chosen], dtype=torch.int64)
    return Batch(input_ids.to(device), lengths.to(device), first.to(device), tuple(places))


def epoch_batches(blocks: Sequence[Block], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, as places of blocks: of similar length, so that there is little padding, in an order
    that seed and epoch decide."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(blocks), generator=random).tolist()
    pool = batch * 32
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        similar = sorted(order[start : start + pool], key=lambda place: len(blocks[place].tokens))
        batches += [similar[i : i + batch] for i in range(0, len(similar), batch)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


def _documents(file: Path, tokenizer: "PreTrainedTokenizerBase") -> Iterator[Block]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if file.suffix != ".jsonl":
        yield Block(_encode(text, tokenizer), kind=file.parent.name)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            yield _document(json.loads(line), tokenizer)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"train: a line of a .jsonl file must be an object with text or tokens, got {file}, line {number}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _document(fields: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> Block:
    kind = str(fields.get("kind", "text"))
    if "tokens" in fields:
        tokens = torch.tensor(fields["tokens"], dtype=torch.int64)
        return Block(tokens, max(1, int(fields.get("prompt_tokens", 1))), kind)
    return Block(_encode(fields["text"], tokenizer), kind=kind)


def _encode(text: str, tokenizer: "PreTrainedTokenizerBase") -> Tensor:
    # One call a document: the tokenizer's warning of a text longer than the model does not concern blocks.
    return torch.tensor(tokenizer(text, verbose=False).input_ids, dtype=torch.int64)


def _cut(document: Block, length: int) -> Iterator[Block]:
    for start in range(0, len(document.tokens), length):
        tokens = document.tokens[start : start + length]
        first = max(1, document.first_target - start)
        if len(tokens) >= _SHORTEST and first < len(tokens):
            yield Block(tokens, first, document.kind)
