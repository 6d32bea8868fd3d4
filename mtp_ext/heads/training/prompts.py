"""Prompts for a small model, from the templates of prompts.toml, Python's standard library and Node.js's documentation.

    python -m mtp_ext.heads.training.prompts FOLDER

writes training.jsonl and heldout.jsonl: other templates, other topics and other files are held out.
"""

import ast
import json
import random
import re
import sys
import sysconfig
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtp_ext.heads.training.answers import Prompt

LIBRARY = Path(sysconfig.get_path("stdlib"))
DOCUMENTS = Path("/usr/share/doc/nodejs/api")  # of Debian's package nodejs-doc, or nodejs
_NOT_WRITTEN_TO_BE_READ = {
    *("test", "lib2to3", "idlelib", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings"),
    *("distutils", "ensurepip", "turtledemo", "lib-dynload"),
}
_COUNTS = {
    "training": {"chat": 3500, "request": 360, "edit": 420, "prefix": 420, "text": 220, "document": 160},
    "heldout": {"chat": 40, "request": 30, "edit": 30, "prefix": 40, "text": 14, "document": 14},
}


def make_prompts(part: str, seed: int) -> list[Prompt]:
    """The prompts of "training" or "heldout", shuffled.

    Args:
        part: which.
        seed: of the choice among templates, topics and places in files.
    """
    templates = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    chosen, held = templates[part], templates["heldout"]
    draw, counts = random.Random(seed), _COUNTS[part]
    files = [path for path in _library() if (_first_name(path) in held["files"]) == (part == "heldout")]
    documents = [
        path for path in sorted(DOCUMENTS.glob("*.md")) if (path.stem in held["documents"]) == (part == "heldout")
    ]

    def some(prompts: list[Prompt], count: int) -> list[Prompt]:
        different = list(dict.fromkeys(prompts))
        return draw.sample(different, min(count, len(different)))

    prompts = some(_chat(chosen), counts["chat"]) + some(_requests(chosen, draw), counts["request"])
    prompts += [Prompt(text, kind="code request") for text in chosen["other_requests"]]
    prompts += some(
        [
            Prompt(draw.choice(chosen["code_edits"]).format(code=code), kind="code edit", source=_source(path))
            for path in files
            for code in _functions(path)
        ],
        counts["edit"],
    )
    prompts += some(
        [
            Prompt(text, chat=False, kind="code continuation", source=_source(path))
            for path in files
            for text in _prefixes(path, draw)
        ],
        counts["prefix"],
    )
    paragraphs = [(text, path.name) for path in documents for text in _paragraphs(path)]
    draw.shuffle(paragraphs)
    requests, rest = paragraphs[: counts["text"]], paragraphs[counts["text"] :]
    prompts += [
        Prompt(draw.choice(chosen["text_requests"]).format(paragraph=text), kind="text request", source=source)
        for text, source in requests
    ]
    prompts += [
        Prompt(_begun(text, draw), chat=False, kind="documentation continuation", source=source)
        for text, source in rest[: counts["document"]]
    ]
    prompts += [Prompt(text, chat=False, kind="open continuation") for text in chosen["openings"]]
    draw.shuffle(prompts)
    return list(dict.fromkeys(prompts))


def _chat(chosen: dict[str, Any]) -> list[Prompt]:
    return [Prompt(text.format(topic=topic), kind="chat") for text in chosen["chat"] for topic in chosen["topics"]]


def _requests(chosen: dict[str, Any], draw: random.Random) -> list[Prompt]:
    return [
        Prompt(draw.choice(chosen["code_requests"]).format(language=language, task=task), kind="code request")
        for task in chosen["tasks"]
        for language in chosen["languages"]
    ]


def _library() -> Iterator[Path]:
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).parts
        if not _NOT_WRITTEN_TO_BE_READ.intersection(parts) and not parts[0].startswith("_sysconfig"):
            yield path


def _first_name(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def _source(path: Path) -> str:
    return str(path.relative_to(LIBRARY))


def _functions(path: Path) -> Iterator[str]:
    """Functions and methods of 5 to 24 lines."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef) and 5 <= (node.end_lineno or 0) - node.lineno <= 24:
            code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            if code.isascii() and len(code) < 900:
                yield code


def _prefixes(path: Path, draw: random.Random) -> Iterator[str]:
    """A few lines from where a definition or an import begins."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"\s{0,4}(def|class|import|from) ", line)]
    for start in draw.sample(starts, min(len(starts), 3)):
        text = "\n".join(lines[start : start + draw.randint(6, 16)])
        if text.isascii() and 120 < len(text) < 800:
            yield text


def _paragraphs(path: Path) -> Iterator[str]:
    for text in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        words = " ".join(text.split())
        if 200 < len(words) < 700 and words[0].isalpha() and words.isascii():
            yield words


def _begun(text: str, draw: random.Random) -> str:
    return text[: draw.randint(60, 200)].rpartition(" ")[0]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, part in enumerate(("training", "heldout"), start=1):
        prompts = make_prompts(part, seed)
        lines = "".join(json.dumps(asdict(prompt)) + "\n" for prompt in prompts)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{folder / part}.jsonl: {len(prompts)} prompts")


if __name__ == "__main__":
    main()
