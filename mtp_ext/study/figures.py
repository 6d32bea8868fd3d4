"""What the plots of all studies share."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mtp_ext.study.intervals import ALL_KINDS, Interval

PANEL = 2.7  # inches
COLORS = ("#1f6fb2", "#d1661b", "#4f8a2e", "#7b4ea3", "#b23a48", "#5f6b7a", "#c39a1f", "#2a9d8f")
_TOGETHER = "#1c2733"

Grid = list[list[Axes]]


def panels(titles: Sequence[str], rows: int = 1, *, panel: float = PANEL, sharey: bool = True) -> tuple[Figure, Grid]:
    """A figure with a column for each title, and panels [row][column], which share their axes along a row."""
    size = (1.0 + panel * len(titles), 1.0 + panel * rows)
    figure = Figure(figsize=size, dpi=130, layout=ConstrainedLayoutEngine(h_pad=0.08))
    FigureCanvasAgg(figure)  # draws into files, without a display and without pyplot's global state
    grid: Grid = figure.subplots(
        rows, len(titles), sharex="row", sharey="row" if sharey else False, squeeze=False
    ).tolist()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in (axes for row in grid for axes in row):
        axes.grid(alpha=0.25)
    return figure, grid


def colors(kinds: Sequence[str]) -> dict[str, str]:
    """A color for each kind of text; all texts together are dark."""
    return {kind: _TOGETHER if kind == ALL_KINDS else COLORS[i % len(COLORS)] for i, kind in enumerate(kinds)}


def curve(axes: Axes, places: Sequence[float], values: Sequence[Interval], color: str, label: str) -> None:
    """Estimates as points on a line, their intervals as bars."""
    axes.plot(places, [value.estimate for value in values], "o-", color=color, ms=4, lw=1.5, label=label)
    axes.vlines(places, [value.low for value in values], [value.high for value in values], color=color, lw=0.8)


def save(figure: Figure, grid: Grid, title: str, path: Path) -> Path:
    """Writes the figure with its title above and the labels of the first panels below."""
    figure.suptitle(title, fontsize=11)
    handles = {}
    for row in grid:
        for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path)
    return path
