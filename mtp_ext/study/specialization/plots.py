"""The specialization study as a plot: distance against relative depth, a curve for each kind of text."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import PercentFormatter

from mtp_ext.study import figures
from mtp_ext.study.specialization.summary import LayerSummary


def draw(summaries: Sequence[LayerSummary], path: Path) -> Path:
    """Writes the figure; bars are 95 % confidence intervals."""
    figure, grid = figures.panels(["KL divergence, nats", "same most probable token"], panel=4.2, sharey=False)
    distance, agreement = grid[0]
    kinds = list(dict.fromkeys(row.kind for row in summaries))
    for kind, color in figures.colors(kinds).items():
        rows = [row for row in summaries if row.kind == kind]
        depths = [row.depth for row in rows]
        figures.curve(distance, depths, [row.kl for row in rows], color, kind)
        figures.curve(agreement, depths, [row.agreement for row in rows], color, kind)
    distance.set_ylim(bottom=0.0)
    agreement.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (distance, agreement):
        axes.set_xlabel("relative depth of the layer")
    return figures.save(figure, [[distance]], "What each layer says of the next token, against the model", path)
