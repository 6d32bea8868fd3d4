"""What the studies share: files that are whole, parts that are kept, and the page about all of them."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from study_cases import write_texts
from tiny_model import save_tiny_model

from mtp_ext import cli
from mtp_ext.study.everything import study_all
from mtp_ext.study.files import Parts, open_output
from mtp_ext.study.outcome import Outcome, Table
from mtp_ext.study.page import write_page

PNG = bytes.fromhex("89504e470d0a1a0a") + b"0" * 50


class Tags(HTMLParser):
    """Fails where a tag is closed that is not open, and collects what links lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outcome(folder: Path, name: str, stopped: str | None = None) -> Outcome:
    plot = folder / f"{name}.png"
    plot.write_bytes(PNG)
    table = Table("a < b & c:", ("x", "y"), [("one", "1"), ("<two>", "22")])
    return Outcome(name, f"About {name}", [table], ["A note."], [plot], [folder / "x.csv"], stopped)


def test_a_table_in_a_terminal() -> None:
    table = Table("Caption:", ("name", "value"), [("a", "1 [0, 2]"), ("longer", "7")])
    assert table.text() == "Caption:\n  name       value\n  a       1 [0, 2]\n  longer         7"


def test_a_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    page = write_page(
        tmp_path / "page.html", "A & B", ["About."], [outcome(tmp_path, "one"), outcome(tmp_path, "two", "half")]
    )
    html = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert all(re.match(r"#|data:image/png;base64,", source) for source in tags.sources)
    assert sum(source.startswith("data:") for source in tags.sources) == 2
    assert "<h1>A &amp; B</h1>" in html
    assert "a &lt; b &amp; c:" in html
    assert "<td>&lt;two&gt;</td><td>22</td>" in html
    assert "Not complete: half." in html


def test_all_studies_go_on_behind_a_refusal_and_end_with_a_stop(tmp_path: Path) -> None:
    seen = []

    def study(name: str, folder: Path) -> Outcome:
        assert folder.is_dir()
        seen.append(name)
        if name == "refused":
            raise ValueError("study: a reason")
        return outcome(folder, name, "stopped after 1 of 2 texts" if name == "stopped" else None)

    found = study_all(["refused", "fine", "stopped", "never"], study, tmp_path)
    assert seen == ["refused", "fine", "stopped"]
    assert found.stopped == "refused: study: a reason; stopped: stopped after 1 of 2 texts"
    assert not found.refused, "it was stopped"
    assert study_all(["refused", "fine"], study, tmp_path).refused
    html = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "study: a reason" in html
    assert "About fine" in html


def test_a_page_is_there_after_each_study(tmp_path: Path) -> None:
    def study(name: str, folder: Path) -> Outcome:
        if name == "killed":
            raise MemoryError
        return outcome(folder, name)

    with pytest.raises(MemoryError):
        study_all(["fine", "killed"], study, tmp_path)
    assert "About fine" in (tmp_path / "study.html").read_text(encoding="utf-8")


def test_parts_are_kept_for_their_configuration_alone(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {"n": 1, "pair": (1, 2)})
    assert parts.get("a b") is None
    parts.put("a b", [1.5, {"x": None}])
    assert Parts(tmp_path, {"n": 1, "pair": [1, 2]}).get("a b") == [1.5, {"x": None}]
    assert Parts(tmp_path, {"n": 2, "pair": (1, 2)}).get("a b") is None
    assert parts.get("a-b") is None, "another part, whose file has the same name"
    [file] = (tmp_path / "parts").iterdir()
    file.write_text(file.read_text()[:-9])
    assert parts.get("a b") is None, "cut short"


def test_the_command_runs_every_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But the heads: their text is missing, which is said, and does not keep the others from being run."""
    model = str(save_tiny_model(tmp_path / "model"))
    texts = [*map(str, write_texts(tmp_path))]
    arguments = [
        "study",
        "all",
        "--model",
        model,
        "--positions",
        "3",
        "--train",
        str(tmp_path / "no"),
        "--threads",
        "1",
    ]
    assert cli.main([*arguments, "--output", str(tmp_path / "out"), "--texts", *texts]) == 2
    printed = capsys.readouterr()
    message = f"heads: train: text must be a file or a folder, got {tmp_path / 'no'}, which is not there"
    assert printed.err.splitlines()[-1] == f"mtp-ext: {message}"
    html = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    for headline in ("Second-token prediction of", "Distance of the layers of", "Branches that the nucleus keeps"):
        assert f">{headline} {model}" in html or f">{headline}, {model}" in html
    assert html.count("data:image/png;base64,") == 5


def test_an_unusable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = f"study: --output must be a folder that can be written to, got {tmp_path / 'file' / 'x'}: Not a directory"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_output(tmp_path / "file" / "x")
    if os.geteuid() != 0:  # root may write everywhere
        tmp_path.chmod(0o500)
        with pytest.raises(ValueError, match=r"Permission denied$"):
            open_output(tmp_path / "new")
