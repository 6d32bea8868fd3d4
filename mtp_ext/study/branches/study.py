"""The branches study: how many tokens the nucleus keeps, against top-p, the text and the model.

After figure 4 of arXiv 2502.09419.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from mtp_ext.study.branches import plots, report
from mtp_ext.study.branches.counts import nucleus_counts
from mtp_ext.study.branches.summary import summarize
from mtp_ext.study.files import Parts, columns, write_csv, write_json
from mtp_ext.study.hidden_states import text_states
from mtp_ext.study.outcome import Outcome
from mtp_ext.study.subject import Subject
from mtp_ext.study.texts import sample_positions

_NAME = "branches"


def study_branches(
    subjects: Sequence[Callable[[], Subject]], output: Path, *, top_ps: Sequence[float], positions: int
) -> Outcome:
    """Counts at `positions` places of each text, with a progress bar on stderr for each model.

    Ctrl-C ends the study with the texts that were measured until then; run again, it goes on behind them.

    Args:
        subjects: give the models one after the other, so that one is in memory at a time.
        output: a folder, for the files.
        top_ps: at least one.
        positions: how many places of each text.

    Raises:
        ValueError: no top-p, a text too short for so many positions, or longer than a model can read; a model whose
            end is not a norm and an unembedding.
    """
    if not top_ps:
        raise ValueError("study: --top-p must name at least one share, got none")
    ascending = sorted(set(top_ps))
    configurations, summaries, complete = [], [], False
    raw: dict[str, dict[str, list[list[int]]]] = {}
    try:
        for load in subjects:
            subject = load()
            configurations.append({**subject.configuration(), "positions": positions, "top_p": ascending})
            counts = raw.setdefault(subject.name, {})
            parts = Parts(output, configurations[-1])
            for kind, counted in _count_texts(subject, ascending, positions, parts):
                counts[kind] = counted
        complete = True
    except KeyboardInterrupt:
        pass
    summaries = [row for model, counts in raw.items() if counts for row in summarize(model, counts, ascending)]
    if not summaries:
        return Outcome(_NAME, "", stopped="stopped before the first text was measured")
    rows = [columns(summary) for summary in summaries]
    everything = {"configuration": configurations, "complete": complete, "summary": rows, "counts": raw}
    return Outcome(
        study=_NAME,
        headline=f"Branches that the nucleus keeps, {', '.join(raw)}",
        tables=report.tables(summaries),
        notes=[*report.notes(summaries)],
        plots=plots.draw(summaries, raw, ascending, output),
        files=[write_csv(output / "branches.csv", rows), write_json(output / "branches.json", everything)],
        stopped=None if complete else f"stopped after {sum(map(len, raw.values()))} texts",
    )


def _count_texts(
    subject: Subject, top_ps: Sequence[float], positions: int, parts: Parts
) -> Iterator[tuple[str, list[list[int]]]]:
    samples = [sample_positions(text, positions) for text in subject.texts]
    for text, sample in zip(tqdm(subject.texts, unit="text", desc=subject.name), samples, strict=True):
        name = f"{subject.name} {text.kind}"
        if (counts := parts.get(name)) is None:
            counts = nucleus_counts(text_states(subject.model, text, sample), top_ps).tolist()
            parts.put(name, counts)
        yield text.kind, counts
