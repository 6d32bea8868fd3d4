"""The branches study as text: tables, and what its sample can and cannot tell."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from mtp_ext.integrations.prefix import MAX_BRANCHES
from mtp_ext.study.branches.summary import NucleusSummary
from mtp_ext.study.outcome import Table, number, percent

_COLUMNS = ("top-p", "mean branches", "median", "largest", f"over {MAX_BRANCHES}, %")


def tables(summaries: Sequence[NucleusSummary]) -> list[Table]:
    """One for each model and kind of text, a line for each top-p."""
    found = []
    for (model, kind), group in groupby(summaries, key=lambda row: (row.model, row.kind)):
        rows = list(group)
        found.append(Table(f"{model}, {kind}, {rows[0].positions} positions:", _COLUMNS, [*map(_line, rows)]))
    return found


def _line(row: NucleusSummary) -> list[str]:
    branches = number(*row.branches, digits=1)
    return [str(row.top_p), branches, f"{row.median:g}", str(row.largest), percent(*row.beyond)]


def notes(summaries: Sequence[NucleusSummary]) -> Iterator[str]:
    """What the figures mean, and what they cannot tell; a sentence or two each."""
    yield (
        "In brackets: 95 % confidence intervals, the bootstrap over positions for means, Wilson's for shares. They "
        "take the positions as independent, and speak of these texts alone. The token that crosses top-p counts."
    )
    widest = max(summaries, key=lambda row: row.branches.high - row.branches.low)
    yield (
        f"The widest interval is {number(*widest.branches, digits=0)}, for {widest.kind} at top-p {widest.top_p}, "
        f"where the median is {widest.median:g}{_skew(widest)}. This sample does not order kinds of "
        "text, or models, whose intervals overlap."
    )
    worst = max(summaries, key=lambda row: row.beyond.estimate)
    if worst.beyond.estimate > 0.0:
        yield (
            f"At top-p {worst.top_p}, {percent(*worst.beyond)} % of the positions of {worst.kind} need more than the "
            f"{MAX_BRANCHES} branches that select_branches keeps by default; there, part of the nucleus is dropped."
        )
    yield (
        "The paper's means at top-p 0.99: Pythia 410M 850 on translation and 1012 on open-ended text, 2.8B 297 and "
        "554, Llama-3 8B 270 and 128, on vocabularies of 50,304 and 128,256. A count depends on the vocabulary and the "
        "text as much as on the model."
    )


def _skew(row: NucleusSummary) -> str:
    return ": a few positions make the mean" if row.branches.estimate > 2.0 * row.median else ""
