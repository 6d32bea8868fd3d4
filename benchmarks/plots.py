"""The plots of the benchmarks."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from records import Results, Timing

_COLORS = {"eager": "#4477AA", "compiled": "#EE6677", "reference": "#BBBBBB", "marginalize": "#228833"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the plots for which there is something to show, and returns their paths."""
    written = []
    for name, shown, plot in (
        ("speed.png", results.speed, _speed),
        ("ceilings.png", results.speed, _ceilings),
        ("overhead.png", results.overhead, _overhead),
        ("memory.png", results.memory, _memory),
    ):
        if shown:
            figure = plot(results)
            written.append(folder / name)
            figure.savefig(written[-1], dpi=110)
    return written


def _panels(results: Results, title: str, panel: Callable[[Axes, list[Timing]], None]) -> Figure:
    """One panel an op, its cases from top to bottom."""
    ops = results.speed_of()
    figure = Figure(figsize=(4.6 * len(ops), 7), layout="constrained")
    axes = figure.subplots(1, len(ops), squeeze=False)
    for axis, (op, timings) in zip(axes[0], ops.items(), strict=True):
        panel(axis, timings)
        axis.set_title(op)
        axis.set_yticks(range(len(timings)), [timing.case for timing in timings], fontsize=7)
        axis.set_ylim(len(timings) - 0.5, -0.5)
        axis.grid(axis="both", alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4)
    figure.suptitle(title)
    return figure


def _speed(results: Results) -> Figure:
    def panel(axis: Axes, timings: list[Timing]) -> None:
        for rival in timings[0].rivals:
            ratios = [timing.ratio(rival) for timing in timings]
            axis.scatter(ratios, range(len(timings)), label=rival, color=_COLORS[rival], s=22, zorder=3)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high < 200 * low else (1,)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
        axis.xaxis.set_minor_locator(LogLocator(base=10, subs=()))
        axis.set_xlabel("time of the rival / time of ours")

    return _panels(results, "How many times ours is as fast (case: shape, dtype, threads)", panel)


def _ceilings(results: Results) -> Figure:
    def panel(axis: Axes, timings: list[Timing]) -> None:
        places = range(len(timings))
        memory = [100 * timing.memory_share for timing in timings]
        exponentials = [100 * timing.exponential_share for timing in timings]
        axis.scatter(memory, places, label="memory bandwidth", color="#4477AA", s=22, zorder=3)
        axis.scatter(exponentials, places, label="exponential rate", color="#EE6677", s=22, zorder=3)
        axis.axvline(100, color="black", linewidth=1)
        axis.set_xlim(left=0)
        axis.set_xlabel("% of what this machine was measured to do")

    return _panels(results, "Share of the machine's ceilings (above 100 %: held by a cache)", panel)


def _overhead(results: Results) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    ops = [timing.op for timing in results.overhead]
    empty = [1e6 * timing.seconds["empty op"] for timing in results.overhead]
    above = [1e6 * (timing.seconds["ours"] - timing.seconds["empty op"]) for timing in results.overhead]
    axis.barh(ops, empty, color="#BBBBBB", label="an empty op (aten.alias)")
    bars = axis.barh(ops, above, left=empty, color="#4477AA", label="above it")
    axis.bar_label(bars, [f"+{microseconds:.1f}" for microseconds in above], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("microseconds a call")
    axis.set_title("Overhead of a call, on a tiny input")
    axis.legend(fontsize=8)
    return figure


def _memory(results: Results) -> Figure:
    shown = [peak for peak in results.memory if peak.threads == 1 and peak.dtype == "float32"]
    labels = [f"{peak.op} {'x'.join(map(str, peak.shape))}" for peak in shown]
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for variant, color in (("eager", "#4477AA"), ("ours", "#EE6677")):
        sizes = [max(peak.peak_bytes[variant], 2**12) / 2**20 for peak in shown]
        axis.scatter(sizes, range(len(shown)), color=color, label=variant, s=22, zorder=3)
    axis.set_yticks(range(len(shown)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axis.grid(alpha=0.3)
    axis.set_xlabel("MiB")
    axis.set_title("Peak memory beyond inputs and outputs (float32, one thread)")
    axis.legend(fontsize=8)
    return figure
