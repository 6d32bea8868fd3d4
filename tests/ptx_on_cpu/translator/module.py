"""Reads a PTX file: its kernels, their parameters, their statements. Knows grammar, not instructions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from .types import BYTES


class Unsupported(Exception):
    """Something in the PTX that the translator does not know. The message names it."""


@dataclass(frozen=True)
class Statement:
    """One label, scope brace, directive or instruction, with its line in the file."""

    text: str
    line: int


@dataclass(frozen=True)
class Variable:
    """A variable of a state space; `count` elements of `type`."""

    name: str
    type: str
    align: int
    count: int
    values: str = ""

    @property
    def bytes(self) -> int:
        return BYTES[self.type] * self.count


@dataclass
class Entry:
    """One kernel."""

    name: str
    parameters: list[Variable]
    shared: list[Variable]
    statements: list[Statement]
    max_threads: int
    exact_threads: bool


@dataclass
class Module:
    """One PTX file."""

    file: str
    target: int  # 80 of sm_80
    entries: list[Entry]
    dynamic_shared: list[str]
    variables: list[Variable]  # .global and .const
    sources: dict[int, str] = field(default_factory=dict)  # .file: number -> base name


_VARIABLE = (
    r"\.{space}\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+(?:\.(?!align)\w+\s+)*(?:\.align\s+\d+\s+)?)?(?P<name>[\w$%]+)(?:\[(?P<count>\d*)\])?"
    r"(?:\s*=\s*\{{?(?P<values>[^;}}]*)\}}?)?"
)


def _variables(space: str, text: str) -> Iterator[Variable]:
    for found in re.finditer(_VARIABLE.format(space=space), text):
        kind = found["type"]
        if kind not in BYTES:
            raise Unsupported(f"type .{kind} of {found['name']}")
        count = int(found["count"]) if found["count"] else 1
        yield Variable(found["name"], kind, int(found["align"] or BYTES[kind]), count, found["values"] or "")


def _without_comments(text: str) -> str:
    """The text with comments blanked and every line kept."""

    def blank(comment: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", comment[0])

    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[start], 0)
        start += 1
    return start - 1


def _statements(text: str, line: int) -> Iterator[Statement]:
    """Splits a body at semicolons, at labels and at the braces of scopes; braces of vectors stay inside."""
    pending, begun, i = "", line, 0
    while i < len(text):
        c = text[i]
        if not pending.strip():
            begun = line
        if c == "{" and pending.strip():  # a vector operand
            end = text.index("}", i)
            pending += text[i : end + 1]
            line += text.count("\n", i, end)
            i = end
        elif c in "{};" or (c == ":" and re.fullmatch(r"\s*[$%\w]+\s*", pending) and text[i + 1 : i + 2] != ":"):
            statement = " ".join(pending.split())
            if c == ":":
                yield Statement(statement + ":", begun)
            elif statement:
                yield Statement(statement, begun)
            if c in "{}":
                yield Statement(c, line)
            pending = ""
        else:
            pending += c
            if c == "\n" and re.match(r"\s*\.loc\b", pending):  # ends without a semicolon
                yield Statement(" ".join(pending.split()), begun)
                pending = ""
        line += c == "\n"
        i += 1


def parse(text: str, file: str) -> Module:
    """The module in `text`; `file` is its name in reports."""
    sources = {int(n): name.rsplit("/", 1)[-1] for n, name in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
    text = _without_comments(text)
    target = re.search(r"\.target\s+sm_(\d+)", text)
    if not target:
        raise Unsupported(f"{file}: no .target sm_..")
    entries, outside, at = [], "", 0
    for found in re.finditer(
        r"(?:\.visible\s+|\.weak\s+)?\.entry\s+(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)(?P<directives>[^{]*)\{",
        text,
    ):
        end = _closing_brace(text, found.end())
        outside += text[at : found.start()]
        at = end + 1
        body = text[found.end() : end]
        limit = re.search(r"\.(max|req)ntid\s+([\d, ]+)", found["directives"])
        parameters = list(_variables("param", found["parameters"]))
        if len(parameters) != found["parameters"].count(".param"):
            raise Unsupported(f"{found['name']}: parameters {found['parameters']}")
        entries.append(
            Entry(
                name=found["name"],
                parameters=parameters,
                shared=list(_variables("shared", body)),
                statements=list(_statements(body, text.count("\n", 0, found.end()) + 1)),
                max_threads=prod(int(n) for n in limit[2].split(",")) if limit else 1024,
                exact_threads=bool(limit) and limit[1] == "req",
            )
        )
    outside += text[at:]
    if found := re.search(r"\.shared\s[^;]*;", re.sub(r"\.extern\s+\.shared[^;]*;", "", outside)):
        raise Unsupported(f"shared variable outside of a kernel: {found[0]}")
    return Module(
        file=file,
        target=int(target[1]),
        entries=entries,
        dynamic_shared=[
            v.name for v in _variables("shared", "".join(re.findall(r"\.extern\s+\.shared[^;]*;", outside)))
        ],
        variables=[*_variables("global", outside), *_variables("const", outside)],
        sources=sources,
    )
