"""`mtp-ext generate`: prompts from everywhere, the text on stdout, all else on stderr."""

import io
from pathlib import Path

import pytest
import torch
from drafters import Failing
from tiny_model import byte_tokenizer
from tree_models import tree_model

import mtp_ext.decoding
from mtp_ext import cli
from mtp_ext.decoding import generate
from mtp_ext.heads import MTPHeads

NEW = 12
PROMPT = "to be or not to be, to be or"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = tree_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> str:
    """What the model writes behind PROMPT."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    return tokenizer.decode(generate(tree_model("llama"), ids, max_new_tokens=NEW, stop_tokens=()).new_tokens[0])


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object, status: int = 0) -> tuple[str, str]:
        words = ["generate", "--model", str(folder), "--max-new-tokens", str(NEW), *map(str, arguments)]
        assert cli.main(words) == status
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def test_text_and_summary(run, plain: str) -> None:
    for options in ([], ["--drafter", "none"], ["--draft-layers", 1], ["--budget", 5], ["--storage", "float32"]):
        out, err = run(PROMPT, *options)
        assert out == plain + "\n"
        assert f"{NEW} tokens, " in err
        assert "tokens/s" in err
        assert "% of drafts accepted" in err
    assert "Plain decoding: one node a pass." in run(PROMPT, "--drafter", "none")[1]
    assert "The budget was fixed at 5 nodes a request." in run(PROMPT, "--budget", 5)[1]


def test_prompts_from_files_and_stdin(run, plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n")
    assert run("--file", file)[0] == plain + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert run()[0] == plain + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert run("--file", "-")[0] == plain + "\n"
    first, _, rest = PROMPT.partition(" not ")
    file.write_text(rest)
    whole = tmp_path / "whole.txt"
    whole.write_text(f"{first} not\n{rest}")
    assert run(f"{first} not", "--file", file)[0] == run("--file", whole)[0]


def test_heads(run, plain: str, tmp_path: Path) -> None:
    MTPHeads.from_model(tree_model("llama"), [2, 3], kind="mlp").save_pretrained(tmp_path)
    for options in (["--heads", tmp_path], ["--drafter", "heads", "--heads", tmp_path, "--budget", 6]):
        assert run(PROMPT, *options)[0] == plain + "\n"
    assert "The budget was fixed at 6 nodes" in run(PROMPT, "--heads", tmp_path, "--budget", 6)[1]
    expected = "mtp-ext: generate: --heads goes with --drafter heads, got another drafter beside it\n"
    for other in (["--drafter", "lookup"], ["--drafter", "none"], ["--draft-layers", 1]):
        assert run(PROMPT, "--heads", tmp_path, *other, status=2)[1] == expected
    assert (
        f"folder must hold heads.safetensors, got {tmp_path / 'no'}\n"
        in run(PROMPT, "--heads", tmp_path / "no", status=2)[1]
    )
    MTPHeads.from_model(tree_model("qwen2"), [2], kind="mlp").save_pretrained(tmp_path)
    assert (
        "with architecture Qwen2ForCausalLM, got a model with architecture LlamaForCausalLM"
        in run(PROMPT, "--heads", tmp_path, status=2)[1]
    )


def test_a_draft_model(run, folder: Path, plain: str, tmp_path: Path) -> None:
    assert run(PROMPT, "--draft-model", folder)[0] == plain + "\n"
    other = tmp_path / "other"
    tree_model("llama").save_pretrained(other)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other)
    message = run(PROMPT, "--draft-model", other, status=2)[1]
    assert message.splitlines()[-1] == (
        f"mtp-ext: generate: --draft-model {other} must have the model's tokenizer, it has another"
    )


def test_sampling_repeats_itself(run, plain: str) -> None:
    options = ["--temperature", 1.0, "--top-p", 0.95, "--budget", 4, "--seed", 3]
    first = run(PROMPT, *options)[0]
    assert run(PROMPT, *options)[0] == first != plain + "\n"


def test_stop_string(run, plain: str) -> None:
    assert run(PROMPT, "--stop", plain[3:5])[0] == plain[: plain.index(plain[3:5]) + 2] + "\n"


def test_comparison(run, plain: str) -> None:
    out, err = run(PROMPT, "--compare")
    assert out == plain + "\n"
    table = err.splitlines()[-3:]
    assert [row[:22].strip() for row in table] == ["transformers, plain", "mtp_ext, plain", "mtp_ext, with drafts"]
    assert all(row.endswith(f"the same {NEW} tokens") for row in table)


@pytest.mark.parametrize(
    ("error", "status", "last"),
    [
        (KeyboardInterrupt(), 130, "mtp-ext: stopped"),
        (RuntimeError("out of paper"), 2, "mtp-ext: out of paper (after 4 tokens)"),
    ],
)
def test_what_was_written_stays(
    run, plain: str, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, last: str
) -> None:
    prepare = mtp_ext.decoding.prepare
    monkeypatch.setattr(mtp_ext.decoding, "prepare", lambda *a, **options: Failing(prepare(*a, **options), 3, error))
    out, err = run(PROMPT, "--drafter", "none", status=status)
    assert out == plain[:4] + "\n"
    assert "4 tokens, " in err
    assert err.splitlines()[-1] == last


def test_refusals(run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(*arguments: object) -> str:
        out, err = run(*arguments, status=2)
        assert out.strip() == ""
        return err.splitlines()[-1]

    assert refusal(PROMPT, "--chat") == (
        "mtp-ext: generate: --chat needs a model whose tokenizer has a chat template, this one has none"
    )
    assert refusal("") == "mtp-ext: generate: the prompt must not be empty"
    assert refusal(PROMPT, "--top-p", 2) == "mtp-ext: generate: top_p must be in (0, 1], got 2.0"
    assert refusal(PROMPT, "--budget", 5000) == "mtp-ext: generate: budget must be from 1 to 1024, got 5000"
    assert refusal(PROMPT * 10) == (
        f"mtp-ext: generate: the prompt and max_new_tokens must fit into the model's 256 positions, got 280 + {NEW}"
    )
    assert "No such file" in refusal("--file", tmp_path / "missing.txt")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\xff")
    assert f"generate: {binary} must be UTF-8 text" in refusal("--file", binary)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["generate", "--help"])
    assert exit.value.code == 0
    taught = capsys.readouterr().out
    assert "git diff | mtp-ext generate --chat" in taught
    assert "Ctrl-C keeps what was written." in taught
    for wrong, message in ((["--top-p", "x"], "must be a number, got 'x'"), (["--budget", "0"], "at least 1, got '0'")):
        with pytest.raises(SystemExit):
            cli.main(["generate", "x", *wrong])
        assert message in capsys.readouterr().err


def test_torch_threads_are_as_told(run) -> None:
    before = torch.get_num_threads()
    try:
        run(PROMPT, "--threads", 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
