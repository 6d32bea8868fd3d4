"""The specialization study: how far the layers of a model are from its next token, against their depth.

After the figure of arXiv 2502.09419 on why heads on a frozen model do worse: its hidden states are specialised for the
next token late, or early.
"""

from pathlib import Path

import torch
from tqdm import tqdm

from mtp_ext.study.files import Parts, columns, write_csv, write_json
from mtp_ext.study.hidden_states import text_states
from mtp_ext.study.outcome import Outcome
from mtp_ext.study.specialization import plots, report
from mtp_ext.study.specialization.logit_lens import LensDistances, lens_distances
from mtp_ext.study.specialization.summary import summarize
from mtp_ext.study.subject import Subject
from mtp_ext.study.texts import sample_positions

_NAME = "specialization"


def study_specialization(subject: Subject, output: Path, *, positions: int) -> Outcome:
    """Measures every layer at `positions` places of each text, with a progress bar on stderr.

    Ctrl-C ends the study with the texts that were measured until then; run again, it goes on behind them.

    Args:
        subject: a model, and what it reads.
        output: a folder, for the files.
        positions: how many places of each text.

    Raises:
        ValueError: a text too short for so many positions, or longer than the model can read; a model whose end is
            not a norm and an unembedding.
    """
    configuration = {**subject.configuration(), "positions": positions}
    parts = Parts(output, configuration)
    samples = [sample_positions(text, positions) for text in subject.texts]
    distances: dict[str, LensDistances] = {}
    try:
        for text, sample in zip(tqdm(subject.texts, unit="text"), samples, strict=True):
            if (done := parts.get(text.kind)) is None:
                states = text_states(subject.model, text, sample, all_layers=True)
                measured = lens_distances(*states)
                parts.put(text.kind, [field.tolist() for field in measured])
            else:
                measured = LensDistances(*map(torch.tensor, done))
            distances[text.kind] = measured
    except KeyboardInterrupt:
        pass
    if not distances:
        return Outcome(_NAME, "", stopped="stopped before the first text was measured")
    summaries = summarize(distances)
    complete = len(distances) == len(subject.texts)
    rows = [columns(summary) for summary in summaries]
    everything = {"configuration": configuration, "complete": complete, "summary": rows}
    return Outcome(
        study=_NAME,
        headline=f"Distance of the layers of {subject.name} from its next token",
        tables=[report.table(summaries)],
        notes=[*report.notes(summaries)],
        plots=[plots.draw(summaries, output / "specialization.png")],
        files=[
            write_csv(output / "specialization.csv", rows),
            write_json(output / "specialization.json", everything),
        ],
        stopped=None if complete else f"stopped after {len(distances)} of {len(subject.texts)} texts",
    )
