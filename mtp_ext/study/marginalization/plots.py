"""The study as two plots, after figures 1 and 4 of arXiv 2502.09419: one panel for each kind of text."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from mtp_ext.study.intervals import Interval
from mtp_ext.study.summary import Summary

_PANEL = 2.7  # inches
_BY_TOP_P, _BY_TOP_K, _TOP5, _TOP1 = "#7b4ea3", "#4f8a2e", "#1f6fb2", "#d1661b"

Kinds = Sequence[tuple[str, list[Summary]]]
Grid = list[list[Axes]]


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
    size = (1.0 + _PANEL * len(kinds), 1.0 + _PANEL * rows)
    figure = Figure(figsize=size, dpi=130, layout=ConstrainedLayoutEngine(h_pad=0.08))
    FigureCanvasAgg(figure)  # draws into files, without a display and without pyplot's global state
    grid: Grid = figure.subplots(rows, len(kinds), sharex="row", sharey="row", squeeze=False).tolist()
    for panel, (kind, summaries) in zip(grid[0], kinds, strict=True):
        panel.set_title(f"{kind}, {summaries[0].positions} positions", fontsize=10)
    return figure, grid


def _against_branches(panel: Axes, summaries: Sequence[Summary], value: Callable[[Summary], Interval]) -> None:
    by_top_p = [summary for summary in summaries if summary.setting.top_p is not None]
    by_top_k = [summary for summary in summaries if summary.setting.top_k is not None]
    for group, color, name in ((by_top_p, _BY_TOP_P, "top-p"), (by_top_k, _BY_TOP_K, "top-k")):
        ordered = sorted(group, key=lambda summary: summary.branches.estimate)
        if ordered:
            places = [summary.branches.estimate for summary in ordered]
            _curve(panel, places, [*map(value, ordered)], color, f"second token, branches by {name}")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlabel("mean branches kept")
    panel.grid(alpha=0.25)


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
        _curve(panel, places, second, color, f"second token, {name}")
        panel.axhline(following.estimate, color=color, lw=1, ls=":", label=f"next token, {name}")
    panel.set_xticks(range(len(ordered)), [str(summary.setting.top_p) for summary in ordered])
    panel.set_xlabel("top-p")
    panel.grid(alpha=0.25)


def _curve(panel: Axes, places: Sequence[float], values: Sequence[Interval], color: str, label: str) -> None:
    lows, highs = [value.low for value in values], [value.high for value in values]
    panel.plot(places, [value.estimate for value in values], "o-", color=color, ms=4, lw=1.5, label=label)
    panel.vlines(places, lows, highs, color=color, lw=0.8)


def _save(figure: Figure, grid: Grid, title: str, path: Path) -> Path:
    figure.suptitle(f"{title}, the next one summed out (bars: 95 % confidence)", fontsize=11)
    handles = {}
    for row in grid:
        for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path)
    return path
