"""The heads study as text: tables, and what its sample can and cannot tell."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise

from mtp_ext.study.heads.predictions import Prediction
from mtp_ext.study.heads.strategies import BASELINE, STRATEGIES
from mtp_ext.study.heads.summary import Difference, StrategySummary, compare
from mtp_ext.study.intervals import Interval
from mtp_ext.study.outcome import Table, percent

_COLUMNS = ("strategy", "next top-1 %", "next top-5 %", "second top-1 %", "second top-5 %")
# Top-5 accuracy of the second token for Pythia 410M, in the paper's table 1.
_PAPER = {
    "tuned": 0.682,
    "frozen": 0.500,
    "joint": 0.538,
    "warmup": 0.566,
    "differential": 0.562,
    "both": 0.572,
    "weighted": 0.590,
}


def tables(summaries: Sequence[StrategySummary], predictions: Mapping[str, Sequence[Prediction]]) -> list[Table]:
    """One for each kind of text, a line for each strategy; then the strategies against the baseline."""
    found = []
    for kind, group in groupby(summaries, key=lambda row: row.kind):
        rows = list(group)
        found.append(Table(f"{kind}, {rows[0].positions} positions:", _COLUMNS, [*map(_line, rows)]))
    if BASELINE in predictions and len(predictions) > 1:
        differences = [compare(predictions, name, BASELINE) for name in predictions if name != BASELINE]
        caption = f"Against {STRATEGIES[BASELINE].title}, points at the same positions of all texts:"
        columns = ("strategy", "next top-5", "second top-1", "second top-5", "which is ahead at the second, top-5")
        found.append(Table(caption, columns, [*map(_difference, differences)]))
    return found


def _line(row: StrategySummary) -> list[str]:
    shares = (row.next_top1, row.next_top5, row.second_top1, row.second_top5)
    return [STRATEGIES[row.strategy].title, *(percent(*share) for share in shares)]


def _difference(row: Difference) -> list[str]:
    points = (row.next_top5, row.second_top1, row.second_top5)
    return [STRATEGIES[row.strategy].title, *map(_points, points), _ahead(row.second_top5)]


def _points(difference: Interval) -> str:
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.0f} [{low:+.0f}, {high:+.0f}]"


def _ahead(difference: Interval) -> str:
    if difference.low > 0.0:
        return "the strategy"
    return "the baseline" if difference.high < 0.0 else "not decided"


def notes(
    summaries: Sequence[StrategySummary],
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    training_tokens: int,
    top_p: float,
    seconds: float,
) -> Iterator[str]:
    """What the figures mean, what they cannot tell, and what they cost; a sentence or two each."""
    total = summaries[-1]
    half_width = 50 * (total.second_top5.high - total.second_top5.low)
    yield (
        "In brackets: 95 % confidence intervals, Wilson's for shares, the bootstrap over positions for paired "
        "differences. They take the positions as independent, which neighbours in a text are not quite, speak of these "
        "texts alone, and know nothing of how another seed or learning rate would have come out: one run a strategy."
    )
    yield (
        f"A single figure for {total.kind} is known to within {half_width:.0f} points. Strategies were trained on "
        f"{training_tokens:,} tokens; the paper trains on a whole corpus. What needs more training, heads with random "
        "weights above all, is behind here for that reason alone: an order of strategies at this size is one of how "
        "they begin."
    )
    yield (
        f"Marginalization sums over the nucleus of top-p {top_p}, at most 1024 branches. Predictions of heads need no "
        "second pass of the model; those of marginalization need one over all branches."
    )
    if (order := _order(predictions)) is not None:
        yield order
    yield f"Spent: {seconds:.0f} s on training and prediction."


def _order(predictions: Mapping[str, Sequence[Prediction]]) -> str | None:
    """Which of the paper's comparisons between neighbours in its order this sample decides."""
    paper = sorted((name for name in predictions if name in _PAPER), key=_PAPER.__getitem__)
    if len(paper) < 2:
        return None
    verdicts = []
    for lower, higher in pairwise(paper):
        difference = compare(predictions, higher, lower).second_top5
        verdict = {"the strategy": "holds", "the baseline": "is reversed"}.get(_ahead(difference), "is not decided")
        verdicts.append(f"{STRATEGIES[lower].title} < {STRATEGIES[higher].title} {verdict} ({_points(difference)})")
    return "The paper's order by the second token, top-5 (Pythia 410M): " + "; ".join(verdicts) + "."
