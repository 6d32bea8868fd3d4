"""What the tests of the studies share: a model that knows nothing, and short texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import byte_tokenizer
from transformers import PreTrainedModel

from mtp_ext.study.subject import Subject
from mtp_ext.study.texts import Text


def noise(length: int = 60, seed: int = 2) -> Text:
    tokens = torch.randint(256, (length,), generator=torch.Generator().manual_seed(seed))
    return Text(f"noise {seed}", Path(f"noise{seed}.txt"), tokens)


def tiny_subject(model: PreTrainedModel, *texts: Text) -> Subject:
    return Subject("tiny", model, byte_tokenizer(), texts or (noise(),))


def write_texts(folder: Path) -> list[Path]:
    paths = [folder / "counting_up.txt", folder / "greek.txt"]
    paths[0].write_text(" ".join(map(str, range(20))), encoding="utf-8")
    paths[1].write_text("αβγδεζηθ" * 5, encoding="utf-8")
    return paths


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def interrupt_at(call: int, function: Any) -> Any:
    """The function, but for one call of it, counted from 1, at which somebody presses Ctrl-C."""
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    interrupted.calls = calls
    return interrupted


def without_plots(monkeypatch: pytest.MonkeyPatch, study: Any) -> None:
    """Drawing takes longer than all else that a test of this size does."""
    monkeypatch.setattr(study.plots, "draw", lambda *arguments: [])
