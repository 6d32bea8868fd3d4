"""The marginalization study: how well a model's second token is predicted by summing out the next one.

After section 4 of arXiv 2502.09419: share of real tokens among the most probable ones, against the number of
branches; here with the likelihood of the real token, and with confidence intervals.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtp_ext.integrations.prefix import check_model
from mtp_ext.study.files import Parts
from mtp_ext.study.marginalization import plots, report
from mtp_ext.study.marginalization.measurement import Measurement, measure_text
from mtp_ext.study.marginalization.results import Results, write_results
from mtp_ext.study.marginalization.settings import Setting
from mtp_ext.study.marginalization.timing import Timing, time_marginalize
from mtp_ext.study.outcome import Outcome
from mtp_ext.study.subject import Subject
from mtp_ext.study.texts import Text, sample_positions

# Of each text: plain PyTorch takes a good part of a second for a thousand branches.
_TIMED_POSITIONS = 3
_TIMED_BRANCHES = 256  # at most: the logits of these exist for it


def study_marginalization(subject: Subject, output: Path, *, settings: Sequence[Setting], positions: int) -> Outcome:
    """Measures every setting at `positions` places of each text, with a progress bar on stderr.

    Ctrl-C ends the study with what was measured until then; run again, it goes on behind the last whole text.

    Args:
        subject: what predicts, and what.
        output: a folder, for the files.
        settings: ways to choose the branches, at least one.
        positions: how many places of each text.

    Raises:
        ValueError: no settings, a text too short for so many positions, or longer than the model can read.
    """
    settings = list(dict.fromkeys(settings))
    if not settings:
        raise ValueError("study: --top-p or --top-k must name at least one setting, got none")
    configuration = {**subject.configuration(), "positions": positions}
    results = Results(settings=tuple(settings))
    parts = Parts(output, {**configuration, "settings": [setting.name for setting in settings]})

    def save() -> list[Path]:
        return write_results(results, output, configuration)

    _measure(subject, positions, results, parts, save)
    if not results.measurements:
        return Outcome("marginalization", "", stopped="stopped before the first position was measured")
    summaries = results.summaries()
    planned = positions * len(subject.texts)
    return Outcome(
        study="marginalization",
        headline=f"Second-token prediction of {subject.name}",
        tables=report.tables(summaries),
        notes=[*report.notes(results, summaries)],
        plots=plots.draw(summaries, output),
        files=save(),
        stopped=None
        if results.complete
        else f"stopped after {len(results.measurements) // len(settings)} of {planned} positions",
    )


def _measure(subject: Subject, positions: int, results: Results, parts: Parts, save: Callable[[], object]) -> None:
    samples = [sample_positions(text, positions) for text in subject.texts]
    for text in subject.texts:
        check_model(f"study, {text.path}", subject.model, text.tokens.shape[0])
    try:
        with tqdm(total=positions * len(samples), unit="position", smoothing=0.0) as progress:
            for text, sample in zip(subject.texts, samples, strict=True):
                progress.set_description(text.kind)
                if (done := parts.get(text.kind)) is None:
                    part = Results(settings=results.settings)
                    try:
                        _study_text(subject, text, sample, part, progress)
                    finally:
                        _add(results, part)
                    parts.put(text.kind, _to_json(part))
                else:
                    _add(results, _from_json(done, results.settings))
                    progress.update(positions)
                save()
        results.complete = True
    except KeyboardInterrupt:
        pass


def _study_text(subject: Subject, text: Text, positions: list[int], part: Results, progress: "tqdm[None]") -> None:
    timed = range(0, len(positions), -(-len(positions) // _TIMED_POSITIONS))
    start = time.perf_counter()
    measured = measure_text(subject.model, text, positions, part.settings)
    for index, (measurements, branch_pass) in enumerate(measured):
        part.measurements.extend(measurements)
        part.branch_seconds += branch_pass.seconds
        part.seconds += time.perf_counter() - start
        if index in timed:
            log_probs = branch_pass.log_probs[:_TIMED_BRANCHES]
            logits = branch_pass.siblings.logits(log_probs.shape[0])
            part.timings.append(time_marginalize(logits[None], log_probs[None]))
        progress.update()
        start = time.perf_counter()


def _add(results: Results, part: Results) -> None:
    results.measurements += part.measurements
    results.timings += part.timings
    results.seconds += part.seconds
    results.branch_seconds += part.branch_seconds


def _to_json(part: Results) -> dict[str, object]:
    return asdict(part) | {"settings": None}


def _from_json(value: dict[str, Any], settings: tuple[Setting, ...]) -> Results:
    return Results(
        settings,
        [Measurement(**fields) for fields in value["measurements"]],
        [Timing(**fields) for fields in value["timings"]],
        value["seconds"],
        value["branch_seconds"],
    )
