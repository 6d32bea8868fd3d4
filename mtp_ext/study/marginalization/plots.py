"""The study as two plots, after figures 1 and 4 of arXiv 2502.09419: one panel for each kind of text."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from mtp_ext.study import figures
from mtp_ext.study.figures import Grid
from mtp_ext.study.intervals import Interval
from mtp_ext.study.marginalization.summary import Summary

_BY_TOP_P, _BY_TOP_K, _TOP5, _TOP1 = "#7b4ea3", "#4f8a2e", "#1f6fb2", "#d1661b"

Kinds = Sequence[tuple[str, list[Summary]]]


def draw(summaries: Sequence[Summary], folder: Path) -> list[Path]:
    """Writes accuracy.png and likelihood.png into `folder`; bars are 95 % confidence intervals."""
    kinds = [(kind, list(group)) for kind, group in groupby(summaries, key=lambda summary: summary.kind)]
    return [_accuracy(kinds, folder / "accuracy.png"), _likelihood(kinds, folder / "likelihood.png")]


def _accuracy(kinds: Kinds, path: Path) -> Path:
    has_top_p = any(summary.setting.top_p is not None for _, summaries in kinds for summary in summaries)
    figure, grid = _panels(kinds, rows=2 if has_top_p else 1)
    for column, (_, summaries) in enumerate(kinds):
        panel = grid[0][column]
        _against_branches(panel, summaries, lambda summary: summary.second_top5)
        following = summaries[0].next_top5.estimate
        panel.axhline(following, color=_TOP5, lw=1, ls=":", label="next token, top-5")
        if has_top_p:
            _against_top_p(grid[1][column], summaries)
    for row, label in zip(grid, ("top-5 accuracy", "accuracy"), strict=False):
        row[0].set_ylabel(label)
        row[0].set_ylim(-0.03, 1.03)
        row[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return _save(figure, grid, "How often the real second token is among the predicted ones", path)


def _likelihood(kinds: Kinds, path: Path) -> Path:
    figure, grid = _panels(kinds, rows=1)
    for panel, (_, summaries) in zip(grid[0], kinds, strict=True):
        _against_branches(panel, summaries, lambda summary: summary.second_nll)
    grid[0][0].set_ylabel("negative log-likelihood, nats")
    grid[0][0].set_ylim(bottom=0.0)
    return _save(figure, grid, "How unexpected the real second token is", path)


def _panels(kinds: Kinds, rows: int) -> tuple[Figure, Grid]:
    return figures.panels([f"{kind}, {summaries[0].positions} positions" for kind, summaries in kinds], rows)


def _against_branches(panel: Axes, summaries: Sequence[Summary], value: Callable[[Summary], Interval]) -> None:
    by_top_p = [summary for summary in summaries if summary.setting.top_p is not None]
    by_top_k = [summary for summary in summaries if summary.setting.top_k is not None]
    for group, color, name in ((by_top_p, _BY_TOP_P, "top-p"), (by_top_k, _BY_TOP_K, "top-k")):
        ordered = sorted(group, key=lambda summary: summary.branches.estimate)
        if ordered:
            places = [summary.branches.estimate for summary in ordered]
            figures.curve(panel, places, [*map(value, ordered)], color, f"second token, branches by {name}")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlabel("mean branches kept")


def _against_top_p(panel: Axes, summaries: Sequence[Summary]) -> None:
    """Accuracies side by side for each top-p, evenly spaced: 0.9 and 0.99 would coincide on a scale."""
    ordered = sorted(
        (summary for summary in summaries if summary.setting.top_p is not None),
        key=lambda summary: summary.setting.top_p or 0.0,
    )
    for shift, color, name, second, following in (
        (-0.05, _TOP5, "top-5", [summary.second_top5 for summary in ordered], ordered[0].next_top5),
        (+0.05, _TOP1, "top-1", [summary.second_top1 for summary in ordered], ordered[0].next_top1),
    ):
        places = [place + shift for place in range(len(ordered))]
        figures.curve(panel, places, second, color, f"second token, {name}")
        panel.axhline(following.estimate, color=color, lw=1, ls=":", label=f"next token, {name}")
    panel.set_xticks(range(len(ordered)), [str(summary.setting.top_p) for summary in ordered])
    panel.set_xlabel("top-p")


def _save(figure: Figure, grid: Grid, title: str, path: Path) -> Path:
    return figures.save(figure, grid, f"{title}, the next one summed out (bars: 95 % confidence)", path)
