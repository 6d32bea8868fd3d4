"""The plots of the benchmarks."""

from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from statistics import mode

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from records import Results, Timing, rivals_of

_COLORS = {"ours": "black", "eager": "#4477AA", "SDPA": "#4477AA", "compiled": "#EE6677", "reference": "#BBBBBB"}
_MORE_COLORS = ("#228833", "#CCBB44", "#AA3377", "#66CCEE", "#EE8866")


def _colors_of(rivals: Iterable[str]) -> dict[str, str]:
    """The same for those of many plots, any for the others."""
    more = cycle(_MORE_COLORS)
    return {rival: _COLORS.get(rival) or next(more) for rival in rivals}


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the plots for which there is something to show, and returns their paths."""
    written = []
    for name, shown, plot in (
        ("speed.png", results.speed, _speed),
        ("ceilings.png", results.speed, _ceilings),
        ("scaling.png", results.scaling, _scaling),
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
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4, columnspacing=1)
    figure.suptitle(title)
    return figure


def _speed(results: Results) -> Figure:
    def panel(axis: Axes, timings: list[Timing]) -> None:
        for rival, color in _colors_of(rivals_of(timings)).items():
            places = [place for place, timing in enumerate(timings) if rival in timing.seconds]
            ratios = [timings[place].ratio(rival) for place in places]
            axis.scatter(ratios, places, label=rival, color=color, s=22, zorder=3)
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
        axis.scatter(memory, places, label="bandwidth", color="#4477AA", s=22, zorder=3)
        axis.scatter(exponentials, places, label="exp rate", color="#EE6677", s=22, zorder=3)
        if any(timing.operations for timing in timings):
            products = [100 * timing.matrix_share for timing in timings]
            axis.scatter(products, places, label="matrix rate", color="#228833", s=22, zorder=3)
        axis.axvline(100, color="black", linewidth=1)
        axis.set_xlim(left=0)
        axis.set_xlabel("% of what this machine was measured to do")

    return _panels(results, "Share of the machine's ceilings (above 100 %: held by a cache)", panel)


def _scaling(results: Results) -> Figure:
    """Time against the nodes at the prefix that has most of them, and against the prefix likewise."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, grows, fixed, label in ((axes[0], 2, 1, "nodes"), (axes[1], 1, 2, "rows of prefix")):
        common = mode(timing.shape[fixed] for timing in results.scaling)
        shown = sorted((t for t in results.scaling if t.shape[fixed] == common), key=lambda t: t.shape[grows])
        for variant, color in _colors_of(["ours", *rivals_of(shown)]).items():
            for dtype, line in (("float32", "--"), ("bfloat16", "-")):
                sizes = [timing.shape[grows] for timing in shown if timing.dtype == dtype]
                times = [1e3 * timing.seconds[variant] for timing in shown if timing.dtype == dtype]
                axis.plot(sizes, times, line, marker="o", ms=4, color=color, label=f"{variant} {dtype}")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axis.grid(alpha=0.3)
        axis.set_xlabel(label)
        axis.set_title(f"{common} {'rows of prefix' if grows == 2 else 'nodes'}")
    axes[0].set_ylabel("ms a call, one thread")
    axes[1].legend(fontsize=8)
    figure.suptitle("tree_attention, 32 heads, 8 KV heads, head_dim 128")
    return figure


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
