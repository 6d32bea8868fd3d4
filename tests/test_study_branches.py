"""The branches study: its counts are those of `select_branches`, and grow with top-p."""

import csv
from pathlib import Path

import pytest
import torch
from study_cases import interrupt_at, noise, read_json, tiny_subject, without_plots, write_texts
from tiny_model import save_tiny_model, tiny_llama
from tree_models import tree_model

from mtp_ext import cli, select_branches
from mtp_ext.study.branches import counts as counts_module
from mtp_ext.study.branches import study
from mtp_ext.study.branches.counts import nucleus_counts
from mtp_ext.study.branches.study import study_branches
from mtp_ext.study.branches.summary import summarize
from mtp_ext.study.hidden_states import text_states

TOP_P = [0.5, 0.9, 0.99, 1.0]


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 24])
def test_counts_are_those_of_select_branches(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "_CHUNK_BYTES", chunk_bytes)
    model, text = tree_model("gemma2"), noise()
    positions = list(range(31, 58, 3))
    found = nucleus_counts(text_states(model, text, positions), TOP_P)
    with torch.no_grad():
        logits = model(text.tokens[None]).logits[0, positions]
    for row, top_p in zip(found, TOP_P, strict=True):
        # A threshold within rounding of a partial sum may fall to either side.
        assert (row - select_branches(logits, top_p=top_p).counts).abs().max() <= (1 if top_p < 1 else 256)
    assert (found.diff(dim=0) >= 0).all(), "more probability takes at least as many branches"
    assert (found >= 1).all()


def test_summary() -> None:
    rows = summarize("m", {"a": [[1, 1, 2], [2, 5, 2000]], "b": [[3, 3, 3], [3, 4, 5]]}, [0.5, 0.9])
    assert [(row.kind, row.top_p, row.positions) for row in rows] == [
        ("a", 0.5, 3),
        ("a", 0.9, 3),
        ("b", 0.5, 3),
        ("b", 0.9, 3),
        ("all texts", 0.5, 6),
        ("all texts", 0.9, 6),
    ]
    assert rows[1].branches.estimate == 669.0
    assert (rows[1].median, rows[1].largest, rows[1].beyond.estimate) == (5, 2000, 1 / 3)
    assert rows[4].branches.estimate == pytest.approx(13 / 6)


def test_several_models_and_files_that_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(save_tiny_model(tmp_path / name)) for name in ("one", "two")]
    options = ["--positions", "4", "--top-p", "0.9", "0.5", "--output", str(tmp_path / "out"), "--threads", "1"]
    texts = map(str, write_texts(tmp_path))
    assert cli.main(["study", "branches", "--model", models[0], "--model", models[1], *options, "--texts", *texts]) == 0
    assert capsys.readouterr().out.count("mean branches") == 2 * 3
    found = read_json(tmp_path / "out" / "branches.json")
    with (tmp_path / "out" / "branches.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["top_p"]) for row in rows] == [
        (m, p) for m in models for _ in range(3) for p in ("0.5", "0.9")
    ]
    for row, expected in zip(rows, found["summary"], strict=True):
        assert {name: str(value) for name, value in expected.items()} == row
    assert float(rows[0]["branches"]) <= float(rows[1]["branches"])
    assert found["counts"][models[0]] == found["counts"][models[1]]
    for name in ("branches.png", "distribution.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


def test_a_stopped_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject(tiny_llama(), noise(), noise(seed=3))
    without_plots(monkeypatch, study)
    interrupted = interrupt_at(2, nucleus_counts)
    monkeypatch.setattr(study, "nucleus_counts", interrupted)
    stopped = study_branches([lambda: subject], tmp_path, top_ps=TOP_P, positions=8)
    assert stopped.stopped == "stopped after 1 texts"
    assert study_branches([lambda: subject], tmp_path, top_ps=TOP_P, positions=8).stopped is None
    assert len(interrupted.calls) == 3, "the first text is not measured again"
    (tmp_path / "whole").mkdir()
    study_branches([lambda: subject], tmp_path / "whole", top_ps=TOP_P, positions=8)
    for name in ("branches.csv", "branches.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_no_top_p(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^study: --top-p must name at least one share, got none$"):
        study_branches([lambda: tiny_subject(tiny_llama())], tmp_path, top_ps=[], positions=8)
