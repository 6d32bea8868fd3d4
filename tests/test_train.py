"""Training runs: what learns and what stays, resuming, several processes, recipes."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import collate
from mtp_ext.heads.training.recipes import RECIPES
from mtp_ext.heads.training.settings import Settings
from mtp_ext.heads.training.states import CachedStates, LiveStates, compute_states
from tests.training_cases import learned, random_blocks, run_to, tiny_model, tiny_training

FROZEN = Settings(horizons=(2, 3), kind="mlp", batch=4, epochs=2, learning_rate=3e-3)
JOINT = dataclasses.replace(FROZEN, recipe="joint-warmup-differential", kind="transformer")


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("hidden_states", ["last", "weighted"])
def test_heads_learn_and_the_frozen_model_stays_to_the_bit(kind, hidden_states):
    settings = dataclasses.replace(FROZEN, kind=kind, hidden_states=hidden_states, epochs=20, learning_rate=0.02)
    training = tiny_training(settings, random_blocks(8))
    before, heads_before = {k: v.clone() for k, v in training.model.state_dict().items()}, learned(training)
    losses = torch.stack(list(training.run()))
    assert (losses[-2:].mean(0) < 0.8 * losses[:2].mean(0)).all()
    assert all(torch.equal(before[name], weight) for name, weight in training.model.state_dict().items())
    assert set(heads_before) == {f"heads.{name}" for name, _ in training.heads.named_parameters()}
    assert all(not torch.equal(heads_before[name], weight) for name, weight in learned(training).items())


@pytest.mark.parametrize("settings", [FROZEN, JOINT, dataclasses.replace(FROZEN, columns=20)])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, settings, stop):
    blocks = random_blocks(10)
    whole = tiny_training(settings, blocks)
    run_to(whole, whole.steps)
    first = tiny_training(settings, blocks)
    run_to(first, stop)
    first.save(tmp_path)
    second = tiny_training(settings, blocks)
    assert second.resume(tmp_path)
    assert second.step == stop
    run_to(second, second.steps)
    assert second.log == whole.log
    expected = learned(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in learned(second).items())


def test_warm_up_trains_heads_alone_then_adapters_too():
    training = tiny_training(JOINT, random_blocks(8))
    assert training.steps == 6  # two batches an epoch: one epoch of warm-up and two
    assert training.log.horizons == [1, 2, 3]
    start = learned(training)
    run_to(training, 2)
    warm = learned(training)
    assert all(torch.equal(warm[name], start[name]) for name in start if name.startswith("model."))
    run_to(training, 4)
    after = learned(training)
    assert any(not torch.equal(after[name], warm[name]) for name in start if name.startswith("model."))


def test_heads_learn_faster_where_the_recipe_says_so():
    for name, ratio in (("joint", 1.0), ("joint-differential", 4.0)):
        training = tiny_training(dataclasses.replace(JOINT, recipe=name), random_blocks(4))
        heads, adapters = training._groups
        assert heads["peak"] == ratio * adapters["peak"] == ratio * JOINT.learning_rate
    assert set(RECIPES) >= {"frozen", "joint", "joint-warmup", "distill"}


def test_merged_adapters_say_what_the_trained_model_says():
    training = tiny_training(dataclasses.replace(JOINT, learning_rate=0.05), random_blocks(8))
    list(training.run())
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected = training.model(tokens).logits
        states = training.heads.layer_outputs(training.model, tokens)
        merged = training.model.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tiny_model()(tokens).logits, expected, atol=1e-3)
        again = training.heads.bind(merged).layer_outputs(merged, tokens)
    torch.testing.assert_close(again.last_hidden, states.last_hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", [None, "states"])
def test_cached_states_are_those_of_the_model(tmp_path, folder, monkeypatch):
    model, blocks = tiny_model(), random_blocks(5)
    heads = MTPHeads.from_model(model, (2,), kind="transformer", hidden_states="weighted")
    place = None if folder is None else tmp_path / folder
    cached = compute_states(heads, model, blocks, folder=place, batch=2)
    if place is not None:
        with monkeypatch.context() as patch:
            patch.setattr(MTPHeads, "layer_outputs", None)
            cached = compute_states(heads, model, blocks, folder=place)  # from the files: no pass is needed
    batch = collate(blocks, [3, 0])
    got, expected = cached(batch), LiveStates(heads, model)(batch)
    assert isinstance(cached, CachedStates)
    for ours, theirs in zip([*got.layers, got.last_hidden], [*expected.layers, expected.last_hidden], strict=True):
        for row, length in enumerate(batch.lengths.tolist()):
            torch.testing.assert_close(ours[row, :length], theirs[row, :length], rtol=1e-4, atol=1e-4)


def test_two_processes_do_what_one_does(tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    result = subprocess.run(
        [*run, "--module", "tests.train_in_processes", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    from safetensors.torch import load_file

    for name in ("frozen", "joint"):
        two = load_file(tmp_path / f"{name}.safetensors")
        settings = {"frozen": FROZEN, "joint": JOINT}[name]
        alone = tiny_training(settings, random_blocks(9))
        list(alone.run())
        assert len(alone.log.steps) == alone.steps
        for parameter, weight in learned(alone).items():
            torch.testing.assert_close(two[parameter], weight, rtol=1e-3, atol=1e-5)
