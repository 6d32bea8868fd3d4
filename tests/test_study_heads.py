"""The heads study: all strategies are asked at the same places, and a run that was stopped ends as a whole one."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study_cases import interrupt_at, noise, read_json, tiny_subject, without_plots, write_texts
from tiny_model import save_tiny_model, tiny_llama
from transformers import PreTrainedModel
from tree_models import tree_model

from mtp_ext import cli, predict_marginal
from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import Block
from mtp_ext.heads.training.loop import Training
from mtp_ext.heads.training.settings import Settings
from mtp_ext.study.heads import study, training
from mtp_ext.study.heads.predictions import Prediction, predict_by_heads, predict_by_marginals
from mtp_ext.study.heads.samples import HELD_OUT, Sample, Samples, draw_samples
from mtp_ext.study.heads.strategies import STRATEGIES
from mtp_ext.study.heads.study import study_heads
from mtp_ext.study.heads.summary import compare, summarize
from mtp_ext.study.heads.tuning import tune
from mtp_ext.study.outcome import Outcome
from mtp_ext.study.texts import Text

SETTINGS = Settings(batch=4, block=32, learning_rate=3e-3)
TRAINED = ["frozen", "joint", "warmup", "differential", "both", "weighted", "distill"]


@pytest.fixture
def model() -> PreTrainedModel:
    return tree_model("llama")


@pytest.fixture
def samples() -> Samples:
    generator = torch.Generator().manual_seed(5)
    blocks = [Block(torch.randint(256, (32,), generator=generator)) for _ in range(16)]
    return Samples(blocks, [Sample(noise(), range(31, 58, 4)), Sample(noise(seed=3), range(31, 58, 4))])


def run(model: PreTrainedModel, samples: Samples, output: Path, strategies: list[str], **options: Any) -> Outcome:
    output.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **options)
    return study_heads(tiny_subject(model), samples, output, strategies=strategies, settings=settings, top_p=0.9)


def state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


# ---- Predictions ------------------------------------------------------------------------------------------


def test_marginals_are_those_of_predict_marginal(model: PreTrainedModel, samples: Samples) -> None:
    found = iter(predict_by_marginals(model, samples.held_out, 0.9, lambda count: None))
    for sample in samples.held_out:
        tokens = sample.text.tokens
        for position in sample.positions:
            expected = predict_marginal(model, tokens[None, : position + 1], top_p=0.9)
            tops = (expected.next.tokens[0], expected.second.tokens[0])
            right = [top == tokens[position + n] for n, top in enumerate(tops, 1)]
            assert next(found) == Prediction(
                sample.text.kind, bool(right[0][0]), bool(right[0].any()), bool(right[1][0]), bool(right[1].any())
            )


@torch.no_grad()
@pytest.mark.parametrize(("places", "hits"), [((0, 0), (1, 1, 1, 1)), ((4, 1), (0, 1, 0, 1)), ((1, 5), (0, 1, 0, 0))])
def test_heads_are_asked_for_the_right_tokens(
    model: PreTrainedModel, places: tuple[int, int], hits: tuple[int, ...]
) -> None:
    """Of a text that goes on with what stands at these places of the heads' own lists."""
    heads, tokens = MTPHeads.from_model(model, [1, 2]), noise().tokens
    states = heads.layer_outputs(model, tokens[None, :40])
    ranked = [(hidden[0, -1] @ model.lm_head.weight.T).argsort(descending=True) for hidden in heads(states)]
    assert ranked[0][0] == model(tokens[None, :40]).logits[0, -1].argmax(), "a copy, until it is trained"
    tokens[40], tokens[41] = ranked[0][places[0]], ranked[1][places[1]]
    sample = Sample(Text("made", Path("made.txt"), tokens), [35, 39])
    assert predict_by_heads(heads, model, [sample], lambda count: None)[1] == Prediction("made", *map(bool, hits))


def test_tuning_learns_the_next_token(model: PreTrainedModel, samples: Samples) -> None:
    ids = torch.stack([block.tokens for block in samples.blocks])

    def loss() -> float:
        with torch.no_grad():
            return float(model(ids, labels=ids).loss)

    before, steps = loss(), []
    tuned = tune(model, samples.blocks, replace(SETTINGS, epochs=3), steps.append)
    assert tuned is model
    assert len(steps) == 3 * 4
    assert loss() < before - 0.01


# ---- The study --------------------------------------------------------------------------------------------


def test_every_strategy_and_files_that_say_the_same(model: PreTrainedModel, samples: Samples, tmp_path: Path) -> None:
    before = state_of(model)
    strategies = ["base", "tuned", *TRAINED]
    outcome = run(model, samples, tmp_path, strategies)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), "the model itself stays as it is"
    assert strategies == list(STRATEGIES)
    assert outcome.stopped is None
    found = read_json(tmp_path / "heads.json")
    with (tmp_path / "heads.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = ("noise 2", "noise 3", "all texts")
    assert [(row["kind"], row["strategy"]) for row in rows] == [(kind, name) for kind in kinds for name in strategies]
    for row, expected in zip(rows, found["summary"], strict=True):
        assert {name: str(value) for name, value in expected.items()} == row
        assert float(row["second_top1"]) <= float(row["second_top5"])
        assert float(row["second_top5_low"]) <= float(row["second_top5"]) <= float(row["second_top5_high"])
    assert {row["positions"] for row in rows} == {"7", "14"}
    assert found["configuration"]["training_tokens"] == 16 * 32
    assert outcome.plots[0].stat().st_size > 10_000
    assert "The paper's order" in " ".join(outcome.notes)
    assert not list((tmp_path / "training").iterdir()), "checkpoints are kept until a strategy is done"


@pytest.mark.parametrize("name", ["both", "distill"])
def test_a_stopped_study_goes_on(
    model: PreTrainedModel, samples: Samples, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_plots(monkeypatch, study)
    learn = interrupt_at(3, Training._learn)
    monkeypatch.setattr(Training, "_learn", learn)
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    stopped = run(model, samples, tmp_path / "stopped", ["base", name])
    assert stopped.stopped == "stopped after 1 of 2 strategies"
    assert len(stopped.tables[0].rows) == 1
    assert run(model, samples, tmp_path / "stopped", ["base", name]).stopped is None
    steps = 8 if name == "both" else 4
    assert len(learn.calls) == steps + 1, "two steps were not repeated"
    run(model, samples, tmp_path / "whole", ["base", name])
    parts = [read_json(tmp_path / folder / "parts" / f"{name}.json")["value"] for folder in ("stopped", "whole")]
    assert parts[0]["predictions"] == parts[1]["predictions"]
    run(model, samples, tmp_path / "whole", ["base", name])
    assert len(learn.calls) == 2 * steps + 1, "what is done is not done again"
    run(model, samples, tmp_path / "whole", ["base", name], learning_rate=1e-4)
    assert len(learn.calls) == 3 * steps + 1, "another configuration is"


def test_a_checkpoint_of_another_run_is_begun_anew(
    model: PreTrainedModel, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_plots(monkeypatch, study)
    learn = interrupt_at(3, Training._learn)
    monkeypatch.setattr(Training, "_learn", learn)
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    run(model, samples, tmp_path, ["frozen"])
    assert run(model, samples, tmp_path, ["frozen"], seed=1).stopped is None
    assert len(learn.calls) == 3 + 4


def test_a_refused_strategy_leaves_the_others(samples: Samples, tmp_path: Path) -> None:
    model = tiny_llama()  # its heads are too small for tree attention, which teaching takes
    reason = (
        "train: recipe distill needs a model that tree attention serves, a decoder whose layers see all tokens or a "
        "sliding window, got LlamaForCausalLM"
    )
    outcome = run(model, samples, tmp_path, ["distill", "base"])
    assert outcome.stopped is None
    assert [row[0] for row in outcome.tables[0].rows] == [STRATEGIES["base"].title]
    assert outcome.notes[-1] == f"Not measured: {STRATEGIES['distill'].title}. {reason}."
    alone = run(model, samples, tmp_path, ["distill"])
    assert alone.refused
    assert alone.stopped == reason


def test_summary_and_comparison() -> None:
    def rows(*second: bool) -> list[Prediction]:
        return [Prediction("a" if i < 2 else "b", True, True, False, hit) for i, hit in enumerate(second)]

    predictions = {"tuned": rows(True, True, False, False), "joint": rows(False, True, True, False)}
    found = {(row.kind, row.strategy): row for row in summarize(predictions)}
    assert found["a", "tuned"].second_top5.estimate == 1.0
    assert found["all texts", "joint"].second_top5.estimate == 0.5
    assert found["all texts", "joint"].positions == 4
    difference = compare(predictions, "joint", "tuned")
    assert difference.second_top5.estimate == 0.0
    assert difference.second_top5.low < 0.0 < difference.second_top5.high
    assert difference.next_top5 == (0.0, 0.0, 0.0)


# ---- Text -------------------------------------------------------------------------------------------------


def test_samples_hold_out_what_is_not_learned(tmp_path: Path) -> None:
    subject = tiny_subject(tree_model("llama"), noise())
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text("".join(chr(65 + (number + i) % 50) for i in range(150)))
    drawn = draw_samples([tmp_path], subject.texts, subject.tokenizer, block=64, training_tokens=300, positions=10)
    again = draw_samples([tmp_path], subject.texts, subject.tokenizer, block=64, training_tokens=300, positions=10)
    assert drawn.identity() == again.identity()
    assert 300 <= drawn.tokens < 300 + 64
    assert [sample.text.kind for sample in drawn.held_out] == [HELD_OUT, HELD_OUT, "noise 2"]
    assert len(drawn.held_out[-1].positions) == 10
    everything = draw_samples([tmp_path], [], subject.tokenizer, block=64, training_tokens=10**6, positions=10)
    learned = {tuple(block.tokens.tolist()) for block in everything.blocks}
    assert learned > {tuple(block.tokens.tolist()) for block in drawn.blocks}
    for sample in drawn.held_out[:2]:
        assert tuple(sample.text.tokens.tolist()) not in learned
        assert sample.positions[-1] == len(sample.text.tokens) - 3


def test_the_command_and_its_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train"
    train.mkdir()
    arguments = [
        "study",
        "heads",
        "--model",
        str(save_tiny_model(tmp_path / "model")),
        "--block",
        "64",
        "--threads",
        "1",
    ]
    arguments += [
        "--train",
        str(train),
        "--training-tokens",
        "500",
        "--positions",
        "6",
        "--strategies",
        "base",
        "frozen",
    ]
    arguments += ["--output", str(tmp_path / "out"), "--texts", *map(str, write_texts(tmp_path))]

    def refused() -> str:
        assert cli.main(arguments) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert refused() == f"mtp-ext: train: text must hold UTF-8 files of at least 8 tokens, found none in {train}"
    (train / "text.txt").write_text("x" * 100, encoding="utf-8")
    assert refused() == (
        "mtp-ext: study: --train must hold at least 2 blocks of 41 tokens for 6 held-out positions, got 1"
    )
    (train / "text.txt").write_text(" ".join(map(str, range(500))), encoding="utf-8")
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    for strategy in ("base", "frozen"):
        assert printed.count(STRATEGIES[strategy].title) >= 4
    assert "held-out training text, 8 positions" in printed
