"""`mtp-ext train` from text to heads."""

import json

import pytest
import torch

from mtp_ext.cli import main
from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training import Settings, Text, train
from tests.training_cases import random_blocks, tiny_model


class _Quiet:
    def __init__(self):
        self.phases, self.checks = [], 0

    def phase(self, name, total, unit):
        self.phases.append(name)
        return lambda count: None

    def losses(self, horizons, losses):
        pass

    def accuracies(self, epoch, accuracies):
        self.checks += 1


@pytest.mark.parametrize("recipe", ["frozen", "distill", "joint-warmup-differential"])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_run_leaves_heads_that_load_a_log_and_a_plot(tmp_path, recipe, cache):
    settings = Settings(recipe=recipe, horizons=(2, 3), kind="transformer", batch=4, block=24, paths=3, soft_targets=4)
    progress, model = _Quiet(), tiny_model()
    train(settings, model, Text(random_blocks(8), random_blocks(3, seed=1)), tmp_path, progress, cache=cache)
    joint = recipe.startswith("joint")
    if joint:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    heads = MTPHeads.from_pretrained(tmp_path / "heads", model)
    assert heads.config.horizons == (2, 3)
    log = json.loads((tmp_path / "training.json").read_text())
    assert len(log["steps"]) == (4 if joint else 2)
    assert log["horizons"] == ([1, 2, 3] if joint else [2, 3])
    assert log["configuration"]["settings"]["recipe"] == recipe
    assert progress.checks == len(log["validations"]) == (3 if joint else 2)
    assert {a["horizon"] for a in log["validations"][-1]["accuracies"]} == {1, 2, 3}
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not joint or any("Hidden" not in phase for phase in progress.phases)


def test_drafts_are_made_of_frequent_tokens(tmp_path):
    text, model = Text(random_blocks(8), []), tiny_model()
    train(Settings(horizons=(2,), kind="mlp", batch=4, draft_tokens=5), model, text, tmp_path, _Quiet())
    counts = torch.bincount(torch.cat([block.tokens for block in text.training]))
    tokens = MTPHeads.from_pretrained(tmp_path / "heads", model).draft_tokens
    assert sorted(counts[tokens].tolist()) == counts.sort().values[-5:].tolist()


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    settings, text = Settings(horizons=(2,), kind="mlp", batch=2, epochs=2), Text(random_blocks(8), [])

    class Stops(_Quiet):
        def losses(self, horizons, losses):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tiny_model(), text, tmp_path / "stopped", Stops())
    stopped = train(settings, tiny_model(), text, tmp_path / "stopped", _Quiet())
    whole = train(settings, tiny_model(), text, tmp_path / "whole", _Quiet())
    assert all(map(torch.equal, stopped.parameters(), whole.parameters()))
    logs = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("stopped", "whole")]
    assert logs[0] == logs[1]


def test_heads_are_gone_on_with(tmp_path):
    settings, text = Settings(horizons=(2,), kind="mlp", batch=4), Text(random_blocks(8), [])
    train(settings, tiny_model(), text, tmp_path / "first", _Quiet())
    folder, none = tmp_path / "first" / "heads", Settings(horizons=(2,), kind="mlp", learning_rate=1e-30)
    kept = train(none, tiny_model(), text, tmp_path / "second", _Quiet(), start=folder)
    expected = MTPHeads.from_pretrained(folder, tiny_model())
    for ours, theirs in zip(kept.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours.float(), theirs)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        train(Settings(horizons=(2, 3), kind="mlp"), tiny_model(), text, tmp_path / "third", _Quiet(), start=folder)
    assert str(error.value) == f"train: the heads in {folder} must have horizons (2, 3), got (2,)"


def test_sequential_heads_become_prefix_heads(tmp_path):
    settings, text = Settings(recipe="distill", kind="sequential", batch=4, soft_targets=4), Text(random_blocks(8), [])
    train(settings, tiny_model(), text, tmp_path / "first", _Quiet())
    folder = tmp_path / "first" / "heads"
    grown = Settings(recipe="distill", kind="prefix", batch=4, soft_targets=4, learning_rate=1e-30)
    heads = train(grown, tiny_model(), text, tmp_path / "second", _Quiet(), start=folder)
    assert heads.config.kind == MTPHeads.from_pretrained(tmp_path / "second" / "heads", tiny_model()).config.kind
    old = MTPHeads.from_pretrained(folder, tiny_model())
    states = old.layer_outputs(tiny_model(), text.training[0].tokens[None])
    new = heads.float()(heads.layer_outputs(tiny_model(), text.training[0].tokens[None]))
    for ours, theirs in zip(new, old(states), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        train(settings, tiny_model(), text, tmp_path / "third", _Quiet(), start=tmp_path / "second" / "heads")
    assert (
        str(error.value) == f"train: the heads in {tmp_path / 'second' / 'heads'} must have kind sequential, got prefix"
    )


def test_the_command_refuses_with_a_sentence(tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    assert main(["train", "--recipe", "frozn", "--text", str(tmp_path)]) == 2
    assert "mtp-ext: train: recipe must be one of frozen, joint," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "goes on where it was when the same command is given again" in capsys.readouterr().out
