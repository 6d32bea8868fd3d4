"""The specialization study: the distance of a layer is that of the definition, and the last one's is 0."""

import csv
import re
from pathlib import Path

import pytest
import torch
import transformers
from study_cases import interrupt_at, noise, read_json, tiny_subject, without_plots, write_texts
from tiny_model import save_tiny_model, tiny_llama
from torch import Tensor
from torch.nn.functional import kl_div
from tree_models import oracle_of, tree_model

from mtp_ext import cli
from mtp_ext.study.hidden_states import text_states
from mtp_ext.study.specialization import logit_lens, study
from mtp_ext.study.specialization.logit_lens import lens_distances
from mtp_ext.study.specialization.study import study_specialization
from mtp_ext.study.texts import sample_positions
from mtp_ext.testing import assert_within_budget


def lens_logits(model: transformers.PreTrainedModel, tokens: Tensor) -> Tensor:
    """[layers, tokens, vocab]: every layer's output through the final norm and the LM head, by the model's own
    modules."""
    outputs = []
    hooks = [layer.register_forward_hook(lambda *a: outputs.append(a[2])) for layer in model.model.layers]
    with torch.no_grad():
        model(tokens[None])
        states = [output if isinstance(output, Tensor) else output[0] for output in outputs]
        logits = model.lm_head(model.model.norm(torch.cat(states)))
    for hook in hooks:
        hook.remove()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def divergence(of: Tensor, from_: Tensor) -> Tensor:
    return kl_div(from_.log_softmax(-1), of.log_softmax(-1), log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("chunk_bytes", [1, 7 * 4 * 256, 1 << 24])
def test_distances_are_those_of_the_definition(family: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logit_lens, "_CHUNK_BYTES", chunk_bytes)
    model, text = tree_model(family), noise()
    positions = sample_positions(text, 9)
    measured = lens_distances(*text_states(model, text, positions, all_layers=True))
    single, oracle = (lens_logits(m, text.tokens)[:, positions] for m in (model, oracle_of(model)))
    for actual, pair in (
        (measured.kl, [(logits[-1:], logits) for logits in (single, oracle)]),
        (measured.reverse_kl, [(logits, logits[-1:]) for logits in (single, oracle)]),
    ):
        expected, exact = (divergence(*logits) for logits in pair)
        assert_within_budget(actual, expected, exact, scale=float(oracle.abs().max()))
    assert torch.equal(measured.agrees, (single.argmax(-1) == single[-1].argmax(-1)).float())


def test_the_last_layer_is_the_model_and_no_distance_is_negative() -> None:
    text = noise()
    states = text_states(tiny_llama(), text, range(31, 58), all_layers=True)
    kl, reverse_kl, agrees = lens_distances(*states)
    assert kl.shape == reverse_kl.shape == agrees.shape == (2, 27)
    assert torch.equal(kl[-1], torch.zeros(27))
    assert torch.equal(reverse_kl[-1], torch.zeros(27))
    assert (kl[0] > 0).all()
    assert (reverse_kl[0] > 0).all()
    assert agrees[-1].all()


def test_files_say_the_same(tmp_path: Path) -> None:
    outcome = study_specialization(tiny_subject(tiny_llama(), noise(), noise(seed=3)), tmp_path, positions=8)
    found = read_json(tmp_path / "specialization.json")
    with (tmp_path / "specialization.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["layer"]) for row in rows] == [
        (kind, layer) for kind in ("noise 2", "noise 3", "all texts") for layer in ("1", "2")
    ]
    for row, expected in zip(rows, found["summary"], strict=True):
        assert {name: str(value) for name, value in expected.items()} == row
        assert float(row["kl_low"]) <= float(row["kl"]) <= float(row["kl_high"])
    assert rows[-1]["positions"] == "16"
    assert float(rows[-1]["kl"]) == 0.0
    assert outcome.stopped is None
    assert outcome.plots[0].stat().st_size > 10_000
    assert "one layer before the end" in " ".join(outcome.notes)


def test_a_stopped_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject(tiny_llama(), noise(), noise(seed=3))
    without_plots(monkeypatch, study)
    interrupted = interrupt_at(2, lens_distances)
    monkeypatch.setattr(study, "lens_distances", interrupted)
    stopped = study_specialization(subject, tmp_path, positions=8)
    assert stopped.stopped == "stopped after 1 of 2 texts"
    assert read_json(tmp_path / "specialization.json")["complete"] is False
    study_specialization(subject, tmp_path, positions=8)
    assert len(interrupted.calls) == 3, "the first text is not measured again"
    (tmp_path / "whole").mkdir()
    study_specialization(subject, tmp_path / "whole", positions=8)
    for name in ("specialization.csv", "specialization.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stopped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "lens_distances", interrupt_at(1, lens_distances))
    outcome = study_specialization(tiny_subject(tiny_llama()), tmp_path, positions=8)
    assert outcome.stopped == "stopped before the first text was measured"
    assert not outcome.tables


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "specialization", "--model", str(save_tiny_model(tmp_path / "model")), "--positions", "4"]
    texts = ["--texts", *map(str, write_texts(tmp_path))]
    assert cli.main([*arguments, *texts, "--output", str(tmp_path / "out"), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "layer (depth)" in printed
    assert re.search(r"2 \(1\.00\) +0\.00 \[0\.00, 0\.00\]", printed)
    too_short = [*arguments, "--positions", "40", "--output", str(tmp_path / "out"), *texts]
    assert cli.main(too_short) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "mtp-ext: texts: 40 positions after 32 tokens of context need a text of at least 73 tokens, got 49 in "
        f"{tmp_path / 'counting_up.txt'}"
    )
    output = tmp_path / "counting_up.txt"
    assert cli.main([*arguments, *texts, "--output", str(output)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"mtp-ext: study: --output must be a folder that can be written to, got {output}: File exists"
    )


def test_refused_models(tmp_path: Path) -> None:
    config = transformers.GraniteConfig(vocab_size=256, hidden_size=32, num_hidden_layers=1, logits_scaling=3.0)
    granite = transformers.GraniteForCausalLM(config).eval()
    message = (
        r"^study: model must end in a norm and a linear unembedding, with at most a softcap behind it, "
        r"got GraniteForCausalLM$"
    )
    with pytest.raises(ValueError, match=message):
        study_specialization(tiny_subject(granite), tmp_path, positions=8)
    with pytest.raises(ValueError, match=r"^study, noise2.txt: model must have a position for each of the 138 tokens"):
        study_specialization(tiny_subject(tiny_llama(), noise(140)), tmp_path, positions=8)
    broken = tiny_llama()
    broken.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^study, noise2.txt: model must give finite logits, got NaN or infinity$"):
        study_specialization(tiny_subject(broken), tmp_path, positions=8)
