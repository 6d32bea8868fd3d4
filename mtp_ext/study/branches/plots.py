"""The branches study as two plots: the mean against top-p, and how the number varies from position to position."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import PercentFormatter, ScalarFormatter

from mtp_ext.study import figures
from mtp_ext.study.branches.summary import Counts, NucleusSummary


def draw(
    summaries: Sequence[NucleusSummary], counts: Mapping[str, Counts], top_ps: Sequence[float], folder: Path
) -> list[Path]:
    """Writes branches.png and distribution.png into `folder`; bars are 95 % confidence intervals."""
    return [_means(summaries, folder / "branches.png"), _spread(counts, top_ps, folder / "distribution.png")]


def _means(summaries: Sequence[NucleusSummary], path: Path) -> Path:
    models = list(dict.fromkeys(row.model for row in summaries))
    figure, grid = figures.panels(models, panel=4.2)
    for axes, model in zip(grid[0], models, strict=True):
        kinds = list(dict.fromkeys(row.kind for row in summaries if row.model == model))
        for kind, color in figures.colors(kinds).items():
            rows = [row for row in summaries if (row.model, row.kind) == (model, kind)]
            # Evenly spaced: 0.9 and 0.99 would coincide on a scale.
            figures.curve(axes, range(len(rows)), [row.branches for row in rows], color, kind)
            axes.set_xticks(range(len(rows)), [str(row.top_p) for row in rows])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("top-p")
    grid[0][0].set_ylabel("mean branches kept")
    return figures.save(figure, grid, "How many next tokens add up to top-p (bars: 95 % confidence)", path)


def _spread(counts: Mapping[str, Counts], top_ps: Sequence[float], path: Path) -> Path:
    models = [model for model, kinds in counts.items() if kinds]
    figure, grid = figures.panels(models, panel=4.2)
    for axes, model in zip(grid[0], models, strict=True):
        for place, (color, top_p) in enumerate(zip(figures.COLORS * len(top_ps), top_ps, strict=False)):
            row = sorted(count for kind in counts[model].values() for count in kind[place])
            shares = [(rank + 1) / len(row) for rank in range(len(row))]
            axes.step(row, shares, where="post", color=color, lw=1.5, label=f"top-p {top_p}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("branches")
    grid[0][0].set_ylabel("positions that need at most as many")
    grid[0][0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figures.save(figure, grid, "How the number varies from position to position, all texts", path)
