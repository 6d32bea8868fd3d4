"""The specialization study as text: a table, and what its sample can and cannot tell."""

from collections.abc import Iterator, Sequence

from mtp_ext.study.outcome import Table, number, percent
from mtp_ext.study.specialization.summary import LayerSummary


def table(summaries: Sequence[LayerSummary]) -> Table:
    """A line for each layer, a column for each kind of text."""
    kinds = list(dict.fromkeys(summary.kind for summary in summaries))
    last = [summary for summary in summaries if summary.kind == kinds[-1]]
    rows = [
        [
            f"{row.layer} ({row.depth:.2f})",
            *(number(*summary.kl) for summary in summaries if summary.layer == row.layer),
            percent(*row.agreement),
        ]
        for row in last
    ]
    caption = f"KL divergence of the model's distribution from each layer's, nats, {_counts(summaries)}:"
    return Table(caption, ("layer (depth)", *kinds, f"same best token, {kinds[-1]} %"), rows)


def notes(summaries: Sequence[LayerSummary]) -> Iterator[str]:
    """What the figures mean, and what they cannot tell; a sentence or two each."""
    yield (
        "In brackets: 95 % confidence intervals, the bootstrap over positions, Wilson's for shares. They take the "
        "positions as independent, which those of one text are not quite, and speak of these texts alone."
    )
    yield (
        "KL(p || p_l), p the model's next-token distribution, p_l what its final norm and unembedding make of layer "
        "l's output: the nats lost by predicting with that layer. The other direction, KL(p_l || p), is in the files."
    )
    kind = summaries[-1].kind
    layers = [summary for summary in summaries if summary.kind == kind]
    half, before_last = layers[max(0, (len(layers) + 1) // 2 - 1)], layers[-2]
    yield (
        f"For {kind}: {number(*half.kl)} nats at depth {half.depth:.2f}, {number(*before_last.kl)} one layer before "
        f"the end. The paper has 5.4 and 0.5 for Pythia 410M, 4.9 and 0.6 for 12B, on texts of its own: to be compared "
        "in shape, not in digits."
    )
    close = next(summary for summary in layers if summary.kl.estimate < 1.0)
    yield (
        f"The mean first falls under 1 nat at layer {close.layer} of {len(layers)}. A large distance does not say that "
        "a layer knows nothing: it says that the final norm and unembedding cannot read it there."
    )


def _counts(summaries: Sequence[LayerSummary]) -> str:
    return f"{summaries[0].positions} positions a text"
