"""The heads study: every strategy of the paper's table 1, trained on the same text and asked at the same places."""

import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from mtp_ext.heads.training.settings import Settings
from mtp_ext.study.files import Parts, columns, write_csv, write_json
from mtp_ext.study.heads import plots, report
from mtp_ext.study.heads.predictions import Prediction, predict_by_heads, predict_by_marginals
from mtp_ext.study.heads.samples import Samples
from mtp_ext.study.heads.strategies import STRATEGIES
from mtp_ext.study.heads.summary import summarize
from mtp_ext.study.heads.training import planned_steps, train_heads
from mtp_ext.study.heads.tuning import tune
from mtp_ext.study.outcome import Outcome
from mtp_ext.study.subject import Subject

_NAME = "heads"


def study_heads(
    subject: Subject, samples: Samples, output: Path, *, strategies: Sequence[str], settings: Settings, top_p: float
) -> Outcome:
    """Trains and measures one strategy after the other, with a progress bar on stderr.

    A strategy's result is kept when it is whole, and its training now and then: after Ctrl-C, or a kill, the same
    command goes on.

    Args:
        subject: the model; strategies that change it get a copy.
        samples: what is learned from, and where predictions are made.
        output: a folder, for the files.
        strategies: names in `STRATEGIES`.
        settings: of the training; recipe, horizons and what heads read are each strategy's own.
        top_p: of marginalization's branches.
    """
    configuration = {**subject.configuration(), **settings.identity(), **samples.identity(), "top_p": top_p}
    parts = Parts(output, configuration)
    predictions: dict[str, list[Prediction]] = {}
    refusals: dict[str, str] = {}
    seconds = 0.0
    try:
        for name in dict.fromkeys(strategies):
            if (done := parts.get(name)) is None:
                try:
                    done = _measure(subject, samples, output / "training" / name, name, settings, top_p, configuration)
                except (ValueError, ImportError) as error:
                    refusals[name] = str(error)
                    continue
                parts.put(name, done)
                shutil.rmtree(output / "training" / name, ignore_errors=True)
            predictions[name] = [Prediction(**fields) for fields in done["predictions"]]
            seconds += done["seconds"]
    except KeyboardInterrupt:
        pass
    if not predictions:
        reason = "; ".join(refusals.values()) or "stopped before the first strategy was measured"
        return Outcome(_NAME, "", stopped=reason, refused=bool(refusals))
    summaries = summarize(predictions)
    complete = len(predictions) + len(refusals) == len(set(strategies))
    rows = [columns(summary) for summary in summaries]
    everything = {"configuration": configuration, "complete": complete, "seconds": seconds, "summary": rows}
    return Outcome(
        study=_NAME,
        headline=f"Heads and marginalization on {subject.name}",
        tables=report.tables(summaries, predictions),
        notes=[
            *report.notes(summaries, predictions, training_tokens=samples.tokens, top_p=top_p, seconds=seconds),
            *(f"Not measured: {STRATEGIES[name].title}. {reason}." for name, reason in refusals.items()),
        ],
        plots=[plots.draw(summaries, output / "heads.png")],
        files=[write_csv(output / "heads.csv", rows), write_json(output / "heads.json", everything)],
        stopped=None if complete else f"stopped after {len(predictions)} of {len(set(strategies))} strategies",
    )


def _measure(
    subject: Subject,
    samples: Samples,
    folder: Path,
    name: str,
    settings: Settings,
    top_p: float,
    facts: dict[str, object],
) -> dict[str, object]:
    strategy = STRATEGIES[name]
    start = time.perf_counter()
    positions = sum(len(sample.positions) for sample in samples.held_out)
    trained = strategy.tuned or strategy.recipe is not None
    steps = planned_steps(strategy, samples.blocks, settings) if trained else 0
    model = deepcopy(subject.model) if trained else subject.model
    with tqdm(total=steps, unit="step", desc=f"{strategy.title}, training", disable=not steps) as progress:
        if strategy.recipe is not None:
            heads, model = train_heads(model, strategy, samples.blocks, settings, folder, facts, progress.update)
        elif strategy.tuned:
            model = tune(model, samples.blocks, settings, progress.update)
    with tqdm(total=positions, unit="position", desc=f"{strategy.title}, predictions") as progress:
        if strategy.recipe is not None:
            predictions = predict_by_heads(heads, model, samples.held_out, progress.update)
        else:
            predictions = predict_by_marginals(model, samples.held_out, top_p, progress.update)
    return {"predictions": [asdict(row) for row in predictions], "seconds": time.perf_counter() - start}
