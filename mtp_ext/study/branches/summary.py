"""Nucleus sizes summed up: one row for each model, kind of text and top-p."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mtp_ext.integrations.prefix import MAX_BRANCHES
from mtp_ext.study.intervals import ALL_KINDS, Interval, bootstrap, wilson

Counts = Mapping[str, Sequence[Sequence[int]]]  # by kind of text: [top-p][position]


@dataclass(frozen=True)
class NucleusSummary:
    """How many tokens one top-p keeps at the positions of one kind of text.

    Attributes:
        model, kind, top_p: what was measured.
        positions: how many.
        branches: their mean number.
        median, largest: of the positions.
        beyond: the share of positions with more than `MAX_BRANCHES`, what `select_branches` keeps at most unless it
            is told otherwise.
    """

    model: str
    kind: str
    top_p: float
    positions: int
    branches: Interval
    median: float
    largest: int
    beyond: Interval


def summarize(model: str, counts: Counts, top_ps: Sequence[float]) -> list[NucleusSummary]:
    """Kind by kind, top-p by top-p, and all texts together at the end where there are several."""
    groups = dict(counts)
    if len(groups) > 1:
        groups[ALL_KINDS] = [
            [count for kind in counts.values() for count in kind[place]] for place in range(len(top_ps))
        ]
    return [
        NucleusSummary(
            model=model,
            kind=kind,
            top_p=top_p,
            positions=len(row),
            branches=bootstrap(row),
            median=median(row),
            largest=max(row),
            beyond=wilson([count > MAX_BRANCHES for count in row]),
        )
        for kind, rows in groups.items()
        for top_p, row in zip(top_ps, rows, strict=True)
    ]
