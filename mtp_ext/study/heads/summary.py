"""Predictions summed up: a row for each strategy and kind of text, and each strategy against the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtp_ext.study.heads.predictions import Prediction
from mtp_ext.study.intervals import ALL_KINDS, Interval, bootstrap, wilson

COLUMNS = ("next_top1", "next_top5", "second_top1", "second_top5")


@dataclass(frozen=True)
class StrategySummary:
    """Shares of positions at which one strategy was right, as `Prediction` names them."""

    strategy: str
    kind: str
    positions: int
    next_top1: Interval
    next_top5: Interval
    second_top1: Interval
    second_top5: Interval


@dataclass(frozen=True)
class Difference:
    """One strategy minus another at the same positions, so that what is hard about a position cancels out."""

    strategy: str
    baseline: str
    next_top5: Interval
    second_top1: Interval
    second_top5: Interval


def summarize(predictions: Mapping[str, Sequence[Prediction]]) -> list[StrategySummary]:
    """Kind by kind, strategy by strategy, and all texts together at the end where there are several."""
    kinds = list(dict.fromkeys(row.kind for rows in predictions.values() for row in rows))
    if len(kinds) > 1:
        kinds.append(ALL_KINDS)
    return [
        _summary(strategy, kind, [row for row in rows if kind in (row.kind, ALL_KINDS)])
        for kind in kinds
        for strategy, rows in predictions.items()
    ]


def _summary(strategy: str, kind: str, rows: Sequence[Prediction]) -> StrategySummary:
    shares = {column: wilson([getattr(row, column) for row in rows]) for column in COLUMNS}
    return StrategySummary(strategy, kind, len(rows), **shares)


def compare(predictions: Mapping[str, Sequence[Prediction]], strategy: str, baseline: str) -> Difference:
    """The paired differences, over all texts."""
    pairs = list(zip(predictions[strategy], predictions[baseline], strict=True))
    differences = {
        column: bootstrap([float(getattr(one, column)) - float(getattr(other, column)) for one, other in pairs])
        for column in ("next_top5", "second_top1", "second_top5")
    }
    return Difference(strategy, baseline, **differences)
