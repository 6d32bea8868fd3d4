"""The study as text: a table, and what its sample can and cannot tell."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby

from mtp_ext.study.intervals import Interval
from mtp_ext.study.marginalization.results import Results
from mtp_ext.study.marginalization.summary import Comparison, Summary, compare
from mtp_ext.study.outcome import Table, number, percent

_COLUMNS = ("branches chosen by", "branches", "dropped", "top-1 %", "top-5 %", "NLL, nats", "ms")


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """One for each kind of text, a line for each setting."""
    found = []
    for kind, group in groupby(summaries, key=lambda summary: summary.kind):
        rows = list(group)
        caption = (
            f"{kind}, {rows[0].positions} positions; next token: "
            f"top-1 {percent(*rows[0].next_top1)} %, top-5 {percent(*rows[0].next_top5)} %; second token:"
        )
        found.append(Table(caption, _COLUMNS, [*map(_line, rows)]))
    return found


def _line(summary: Summary) -> list[str]:
    return [
        summary.setting.name + (" (greedy)" if summary.setting.top_k == 1 else ""),
        f"{summary.branches.estimate:.1f}",
        f"{summary.dropped_mass.estimate:.4f}",
        percent(*summary.second_top1),
        percent(*summary.second_top5),
        number(*summary.second_nll),
        f"{1e3 * summary.seconds:.2f}",
    ]


def notes(results: Results, summaries: Sequence[Summary]) -> Iterator[str]:
    """What the figures mean, what they cannot tell, and what they cost; a sentence or two each."""
    yield (
        "In brackets: 95 % confidence intervals, Wilson's for shares, the bootstrap over positions for "
        "means. They take the positions as independent, and speak of these texts alone. NLL: minus the "
        "log-probability of the real second token. ms: summing out, from the branches' hidden states on, median of "
        "the positions."
    )
    total = summaries[-1]
    resolution = f"Top-5 accuracy is known to within {_half_width(total):.0f} points for {total.kind}"
    if summaries[0].kind != total.kind:
        resolution += f", to within {max(map(_half_width, summaries)):.0f} for a single kind"
    yield f"{resolution}: this sample does not show smaller differences between kinds or to other studies."
    ranked = sorted((summary for summary in summaries if summary.kind == total.kind), key=_branches)
    if len(ranked) > 1:
        yield _verdict(compare(results.measurements, ranked[-1].setting, ranked[0].setting))
    yield from _cut_short(results)
    yield f"Spent: {results.seconds:.0f} s, {results.branch_seconds:.0f} s of them in passes over branches."
    if results.timings:
        yield _speed(results)


def _branches(summary: Summary) -> float:
    return summary.branches.estimate


def _half_width(summary: Summary) -> float:
    return 50 * (summary.second_top5.high - summary.second_top5.low)


def _verdict(comparison: Comparison) -> str:
    nll, top5 = comparison.second_nll, comparison.second_top5
    return (
        f"{comparison.setting.capitalize()} against {comparison.baseline} on the same "
        f"{comparison.positions} positions: NLL {nll.estimate:+.2f} nats [{nll.low:+.2f}, {nll.high:+.2f}], "
        f"{_decided(nll, lower_is_better=True)}; top-5 accuracy {100 * top5.estimate:+.0f} points "
        f"[{100 * top5.low:+.0f}, {100 * top5.high:+.0f}], {_decided(top5, lower_is_better=False)}."
    )


def _decided(difference: Interval, *, lower_is_better: bool) -> str:
    if not (difference.low > 0.0 or difference.high < 0.0):
        return "not decided by this sample"
    return "better" if (difference.estimate < 0.0) == lower_is_better else "worse"


def _cut_short(results: Results) -> Iterator[str]:
    for setting in results.settings:
        if setting.top_p is None:
            continue
        rows = [row for row in results.measurements if row.setting == setting.name]
        widest = max(row.branches for row in rows)
        cut = sum(row.branches == widest and row.dropped_mass > 1.001 - setting.top_p for row in rows)
        if cut:
            yield (
                f"At {cut} of {len(rows)} positions {setting.name} would need more branches than are kept "
                f"at most, {widest}; the dropped mass includes theirs."
            )


def _speed(results: Results) -> str:
    ours = statistics.median(timing.mtp_ext for timing in results.timings)
    plain = statistics.median(timing.plain_pytorch for timing in results.timings)
    branches = sorted(timing.branches for timing in results.timings)
    difference = max(timing.largest_difference for timing in results.timings)
    return (
        f"Summing out {branches[0]} to {branches[-1]} branches of {results.timings[0].vocab} logits, on the "
        f"very same logits: mtp_ext {1e3 * ours:.2f} ms, plain PyTorch {1e3 * plain:.2f} ms, "
        f"{plain / ours:.1f} times as long (medians of {len(results.timings)} positions); the results differ "
        f"by at most {difference:.1e} nats."
    )
