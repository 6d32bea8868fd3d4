"""The heads study as a plot: the accuracy of every strategy at the next and the second token."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mtp_ext.study.figures import COLORS
from mtp_ext.study.heads.strategies import STRATEGIES
from mtp_ext.study.heads.summary import StrategySummary


def draw(summaries: Sequence[StrategySummary], path: Path) -> Path:
    """Writes the figure, of all texts together; bars are 95 % confidence intervals."""
    kind = summaries[-1].kind
    rows = [row for row in summaries if row.kind == kind][::-1]
    figure = Figure(figsize=(10.5, 1.6 + 0.42 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    following, second = figure.subplots(1, 2, sharex=True, sharey=True)
    _points(following, rows, "next")
    _points(second, rows, "second")
    following.set_yticks(range(len(rows)), [STRATEGIES[row.strategy].title for row in rows])
    following.set_title("next token", fontsize=10)
    second.set_title("second token", fontsize=10)
    figure.suptitle(f"How often the real token is predicted, {kind}, {rows[0].positions} positions", fontsize=11)
    handles, labels = second.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)
    return path


def _points(axes: Axes, rows: Sequence[StrategySummary], token: str) -> None:
    for shift, top in ((0.12, "top5"), (-0.12, "top1")):
        color = COLORS[0] if top == "top5" else COLORS[1]
        shares = [getattr(row, f"{token}_{top}") for row in rows]
        places = [place + shift for place in range(len(rows))]
        axes.plot([share.estimate for share in shares], places, "o", color=color, ms=5, label=f"top-{top[-1]}")
        axes.hlines(places, [share.low for share in shares], [share.high for share in shares], color=color, lw=1.2)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.set_xlim(0.0, 1.0)
