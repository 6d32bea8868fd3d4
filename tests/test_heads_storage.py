"""Heads in a folder: loaded as they were saved, whole or not at all, and on their own model alone."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from head_models import KINDS, head_model, trained_heads
from safetensors.torch import save_file
from tree_models import prompts

from mtp_ext.heads import MTPHeads, storage
from mtp_ext.testing import assert_same_bits


def refusal(folder: Path, model: object) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        MTPHeads.from_pretrained(folder, model)
    return str(refused.value)


@pytest.mark.parametrize(("kind", "hidden_states"), [*KINDS, ("sequential", "last"), ("prefix", "last")])
@torch.no_grad()
def test_loaded_heads_are_the_same(tmp_path: Path, kind: str, hidden_states: str) -> None:
    model = head_model()
    heads = trained_heads(model, [2, 3], kind, hidden_states)
    heads.save_pretrained(tmp_path / "new" / "folder")
    loaded = MTPHeads.from_pretrained(tmp_path / "new" / "folder", model)
    assert loaded.config == heads.config
    assert not loaded.training
    ids, mask = prompts()
    states = heads.layer_outputs(model, ids, mask)
    for one, other in zip(loaded(states, attention_mask=mask), heads(states, attention_mask=mask), strict=True):
        assert_same_bits(one, other)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "heads.safetensors"]
    assert json.loads((tmp_path / "new" / "folder" / "config.json").read_text())["kind"] == kind


def test_draft_tokens_are_kept(tmp_path: Path) -> None:
    model = head_model()
    tokens = torch.tensor([3, 7, 255])
    trained_heads(model, [2, 3], "prefix", "last").draft_from(tokens).bfloat16().save_pretrained(tmp_path)
    loaded = MTPHeads.from_pretrained(tmp_path, model)
    assert loaded.config.draft_tokens == 3
    assert torch.equal(loaded.draft_tokens, tokens)


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [2, 1], [1, 1], [-1, 2], [1, 256], [1.0, 2.0]])
def test_refused_draft_tokens(tmp_path: Path, tokens: list[object]) -> None:
    """By `draft_from`, and in a file."""
    model = head_model()
    heads = trained_heads(model, [2], "mlp", "last")
    expected = "MTPHeads: draft_tokens must be int64 [tokens], ascending and below 256, got torch."
    with pytest.raises(ValueError, match=re.escape(expected)):
        heads.draft_from(torch.tensor(tokens))
    wrong = torch.tensor(tokens)
    if wrong.dim() == 1 and len(wrong) and not wrong.is_floating_point():
        storage.save(tmp_path, replace(heads.config, draft_tokens=2), heads.state_dict() | {"draft_tokens": wrong})
        assert refusal(tmp_path, model).startswith(expected)


@torch.no_grad()
def test_the_dtype_is_the_models(tmp_path: Path) -> None:
    """Heads stored in bfloat16 run in float32 with a float32 model, and with the same model in bfloat16."""
    model = head_model()
    heads = trained_heads(model, [2], "mlp", "last").bfloat16()
    heads.save_pretrained(tmp_path)
    loaded = MTPHeads.from_pretrained(tmp_path, model)
    assert_same_bits(loaded.heads[0].up.weight.detach(), heads.heads[0].up.weight.detach().float())
    assert MTPHeads.from_pretrained(tmp_path, head_model().bfloat16()).heads[0].up.weight.dtype == torch.bfloat16


def test_heads_of_another_model_are_refused(tmp_path: Path) -> None:
    model = head_model()
    model.name_or_path = "models/tiny"
    trained_heads(model, [2], "mlp", "last").save_pretrained(tmp_path)
    start = f"MTPHeads: the heads in {tmp_path} are for models/tiny (LlamaForCausalLM)"
    assert refusal(tmp_path, head_model("qwen2")) == (
        f"{start} with architecture LlamaForCausalLM, got a model with architecture Qwen2ForCausalLM"
    )
    assert refusal(tmp_path, head_model(layers=4)) == f"{start} with layers 3, got a model with layers 4"
    other = head_model()
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight.mul_(1.1)  # as training with adapters would
    assert refusal(tmp_path, other) == (
        f"{start}, got a model of the same architecture with other weights: LlamaForCausalLM"
    )


def test_heads_can_move_to_a_model_that_was_trained_with_them(tmp_path: Path) -> None:
    model = head_model()
    heads = trained_heads(model, [2], "transformer", "last")
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(1.1)
    heads.bind(model).save_pretrained(tmp_path)
    MTPHeads.from_pretrained(tmp_path, model)
    assert "other weights" in refusal(tmp_path, head_model())


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    model = head_model()
    file = tmp_path / "heads.safetensors"
    assert refusal(tmp_path, model) == f"MTPHeads: folder must hold heads.safetensors, got {tmp_path}"
    trained_heads(model, [2], "mlp", "last").save_pretrained(tmp_path)
    whole = file.read_bytes()
    start = f"MTPHeads: {file} must be a file that save_pretrained wrote, got: "
    for cut in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert refusal(tmp_path, model).startswith(start)
    save_file({"x": torch.zeros(1)}, file)
    assert refusal(tmp_path, model) == start + "a file without the heads' configuration"
    config = trained_heads(model, [2], "mlp", "last").config
    storage.save(tmp_path, config, {"heads.0.up.weight": torch.zeros(32, 32)})
    assert refusal(tmp_path, model).startswith(f"MTPHeads: {file} must hold the weights of its heads, got: Missing key")


def test_an_interrupted_save_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = head_model()
    heads = trained_heads(model, [2], "mlp", "last")
    heads.save_pretrained(tmp_path)

    def cut_short(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"cut")
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "save_file", cut_short)
    with pytest.raises(KeyboardInterrupt):
        MTPHeads.from_model(model, [2, 3], kind="mlp").save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "heads.safetensors"]
    assert MTPHeads.from_pretrained(tmp_path, model).config == heads.config
