"""Outcomes as one HTML page that needs no other file: plots are embedded."""

import base64
from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path

from mtp_ext.study.files import write_whole
from mtp_ext.study.outcome import Outcome, Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.25rem; border-top: 1px solid #d5dbe1; padding-top: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem auto; }
.scroll { overflow-x: auto; margin: .6rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; color: #44525f; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e6eaee; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.about, .stopped { color: #44525f; }
.stopped { border-left: 4px solid #d1661b; padding-left: .7rem; }
summary { cursor: pointer; color: #1f6fb2; }
code { font-size: .9em; background: #f2f5f7; padding: .1rem .3rem; }
"""


def write_page(path: Path, title: str, about: Sequence[str], outcomes: Sequence[Outcome]) -> Path:
    """Writes the page.

    Args:
        path: of the HTML file.
        title: of the page.
        about: what was run, a line each.
        outcomes: a section each; those without tables say that they were stopped.
    """
    links = "".join(f'<li><a href="#{outcome.study}">{escape(_title(outcome))}</a></li>' for outcome in outcomes)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="about">{escape(line)}</p>' for line in [*about, f"Made on {date.today().isoformat()}."]),
        f"<ul>{links}</ul>",
        *map(_section, outcomes),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    page = [
        "<!doctype html>",
        f'<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>',
        *body,
        "</body></html>",
    ]
    return write_whole(path, "\n".join(page) + "\n")


def _title(outcome: Outcome) -> str:
    return outcome.headline or outcome.study


def _section(outcome: Outcome) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in outcome.notes)
    tables = "\n".join(map(_table, outcome.tables))
    parts = [f'<h2 id="{outcome.study}">{escape(_title(outcome))}</h2>']
    if outcome.stopped:
        parts.append(f'<p class="stopped">Not complete: {escape(outcome.stopped)}.</p>')
    parts += [_image(plot) for plot in outcome.plots]
    if notes:
        parts.append(f"<h3>What it says, and what it cannot</h3><ul>{notes}</ul>")
    if tables:
        parts.append(f"<details><summary>All figures</summary>{tables}</details>")
    if outcome.files:
        parts.append(
            f'<p class="about">Files: {", ".join(f"<code>{escape(str(file))}</code>" for file in outcome.files)}</p>'
        )
    return "\n".join(parts)


def _image(plot: Path) -> str:
    data = base64.b64encode(plot.read_bytes()).decode("ascii")
    return f'<img alt="{escape(plot.stem)}" src="data:image/png;base64,{data}">'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
