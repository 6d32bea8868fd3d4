"""What `mtp-ext train` refuses, word for word, and that nothing is lost by it."""

import json

import pytest
import torch

from mtp_ext.heads.training import memory
from mtp_ext.heads.training.data import read_blocks
from mtp_ext.heads.training.recipes import add_adapters
from mtp_ext.heads.training.settings import Settings
from tests.test_train import FROZEN
from tests.training_cases import random_blocks, run_to, tiny_model, tiny_training, write_words


class _Words:
    """A tokenizer: a token is a word."""

    def __call__(self, text, verbose=True):
        return type("Encoding", (), {"input_ids": [hash(word) % 61 for word in text.split()]})


def test_a_folder_with_nothing_usable(tmp_path):
    (tmp_path / "picture.png").write_bytes(bytes(range(128, 256)))
    write_words(tmp_path / "short.txt", 3)
    with pytest.raises(ValueError, match=r"^train: ") as error:
        read_blocks([tmp_path], _Words(), 16)
    assert str(error.value) == f"train: text must hold UTF-8 files of at least 8 tokens, found none in {tmp_path}"


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_blocks([tmp_path / "none"], _Words(), 16)
    assert str(error.value) == f"train: text must be a file or a folder, got {tmp_path / 'none'}, which is not there"


def test_a_line_that_is_no_document(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"tokens": list(range(12))}) + "\n" + json.dumps({"words": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"^train: ") as error:
        read_blocks([file], _Words(), 16)
    assert str(error.value) == (
        f"train: a line of a .jsonl file must be an object with text or tokens, got {file}, line 2: KeyError: 'text'"
    )


def test_text_is_cut_into_blocks_and_prompts_are_only_read(tmp_path):
    write_words(tmp_path / "long.txt", 40)
    line = {"tokens": list(range(30)), "prompt_tokens": 20, "kind": "code"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(line) + "\n")
    blocks = read_blocks([tmp_path], _Words(), 16)
    assert [(len(block.tokens), block.first_target) for block in blocks] == [(14, 4), (16, 1), (16, 1), (8, 1)]
    assert [block.kind for block in blocks] == ["code", *[tmp_path.name] * 3]


def test_unknown_names():
    with pytest.raises(ValueError, match=r"^train: recipe must be one of frozen, joint, joint-warmup, .*, got 'x'$"):
        Settings(recipe="x")
    with pytest.raises(ValueError, match=r"^train: arithmetic must be 'float32' or 'bfloat16', got 'half'$"):
        Settings(arithmetic="half")


def test_a_checkpoint_that_was_cut_short(tmp_path):
    training = tiny_training(FROZEN, random_blocks(6))
    run_to(training, 1)
    training.save(tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^train: ") as error:
        tiny_training(FROZEN, random_blocks(6)).resume(tmp_path)
    words = str(error.value)
    assert words.startswith(f"train: {file} must be a whole checkpoint, got: ")
    assert words.endswith("; remove it to begin anew")


def test_a_checkpoint_of_another_run(tmp_path):
    training = tiny_training(FROZEN, random_blocks(6))
    run_to(training, 1)
    training.save(tmp_path)
    with pytest.raises(ValueError, match=r"^train: ") as error:
        tiny_training(Settings(**{**FROZEN.identity(), "horizons": (2, 3), "batch": 3}), random_blocks(6)).resume(
            tmp_path
        )
    assert str(error.value) == (
        f"train: {tmp_path / 'checkpoint.safetensors'} must be of this run, with batch 3, got one with 4; "
        "name another --output, or remove it to begin anew"
    )


def test_too_little_memory_says_what_would_fit():
    config = tiny_training(FROZEN, random_blocks(2)).heads.config
    with pytest.raises(MemoryError) as error:
        memory.check_batch(config, batch=64, block=256, joint=False, free=20_000_000)
    assert str(error.value) == (
        "train: a batch of 64 blocks of 256 tokens takes about 41.9 MB, and 20.0 MB are free: --batch 27 would fit"
    )
    with pytest.raises(MemoryError) as error:
        memory.check_states(10_000_000_000, 1_000_000, 5_000_000_000)
    assert str(error.value) == (
        "train: the hidden states of 1,000,000 tokens take 10.0 GB, and 5.0 GB are free: 450,000 tokens would fit, "
        "or use --cache disk"
    )
    memory.check_states(10, 10, None)


def test_a_model_with_other_projections():
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.key = layer.self_attn.k_proj
        del layer.self_attn.k_proj
    with pytest.raises(ValueError, match=r"^train: ") as error:
        add_adapters(model)
    assert str(error.value) == (
        "train: a joint recipe needs attention projections called q_proj, k_proj and v_proj (or query_key_value, "
        "qkv_proj, c_attn), got LlamaForCausalLM, which has none"
    )


def test_a_frozen_step_leaves_nothing_of_a_refused_resume(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    training = tiny_training(FROZEN, random_blocks(6))
    before = [parameter.clone() for parameter in training.parameters.values()]
    with pytest.raises(ValueError, match="must be a whole checkpoint"):
        training.resume(tmp_path)
    assert training.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters.values(), strict=True))
