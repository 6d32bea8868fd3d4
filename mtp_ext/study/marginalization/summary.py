"""Measurements summed up: one row for each kind of text and setting, with confidence intervals."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtp_ext.study.intervals import ALL_KINDS, Interval, bootstrap, wilson
from mtp_ext.study.marginalization.measurement import Measurement
from mtp_ext.study.marginalization.settings import Setting


@dataclass(frozen=True)
class Summary:
    """One setting on one kind of text: means over its positions, as `Measurement` names them; of seconds the
    median."""

    kind: str
    setting: Setting
    positions: int
    branches: Interval
    dropped_mass: Interval
    next_top1: Interval
    next_top5: Interval
    second_top1: Interval
    second_top5: Interval
    second_nll: Interval
    seconds: float


def summarize(measurements: Sequence[Measurement], settings: Sequence[Setting]) -> list[Summary]:
    """The rows of the table: kind by kind, and all texts together at the end where there are several."""
    kinds = list(dict.fromkeys(measurement.kind for measurement in measurements))
    groups = [(kind, [m for m in measurements if m.kind == kind]) for kind in kinds]
    if len(kinds) > 1:
        groups.append((ALL_KINDS, list(measurements)))
    return [row for kind, group in groups for row in _rows(kind, group, settings)]


def _rows(kind: str, group: Sequence[Measurement], settings: Sequence[Setting]) -> Iterator[Summary]:
    for setting in settings:
        rows = [measurement for measurement in group if measurement.setting == setting.name]
        yield Summary(
            kind=kind,
            setting=setting,
            positions=len(rows),
            branches=bootstrap([row.branches for row in rows]),
            dropped_mass=bootstrap([row.dropped_mass for row in rows]),
            next_top1=wilson([row.next_top1 for row in rows]),
            next_top5=wilson([row.next_top5 for row in rows]),
            second_top1=wilson([row.second_top1 for row in rows]),
            second_top5=wilson([row.second_top5 for row in rows]),
            second_nll=bootstrap([row.second_nll for row in rows]),
            seconds=statistics.median(row.seconds for row in rows),
        )


@dataclass(frozen=True)
class Comparison:
    """One setting minus another on the same positions, so that what is hard about a position cancels out."""

    setting: str
    baseline: str
    positions: int
    second_top5: Interval
    second_nll: Interval


def compare(measurements: Sequence[Measurement], setting: Setting, baseline: Setting) -> Comparison:
    """The paired differences in top-5 accuracy and negative log-likelihood of the second token."""
    by_name = {
        name: [measurement for measurement in measurements if measurement.setting == name]
        for name in (setting.name, baseline.name)
    }
    pairs = list(zip(by_name[setting.name], by_name[baseline.name], strict=True))
    return Comparison(
        setting=setting.name,
        baseline=baseline.name,
        positions=len(pairs),
        second_top5=bootstrap([float(a.second_top5) - float(b.second_top5) for a, b in pairs]),
        second_nll=bootstrap([a.second_nll - b.second_nll for a, b in pairs]),
    )
