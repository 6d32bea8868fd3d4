"""What a study has found so far, and its files: CSV for the summary, JSON for everything."""

import csv
import io
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mtp_ext.study.intervals import Interval
from mtp_ext.study.measurement import Measurement
from mtp_ext.study.settings import Setting
from mtp_ext.study.summary import Summary, summarize
from mtp_ext.study.timing import Timing


@dataclass
class Results:
    """Measurements and timings.

    Attributes:
        settings: what was compared.
        measurements: one for each position and setting.
        timings: our kernel and plain PyTorch at some of the positions.
        seconds: spent on the measurements: prefixes, branches and summing out.
        branch_seconds: spent on the forward passes over the branches alone.
        complete: whether every position was measured.
    """

    settings: tuple[Setting, ...]
    measurements: list[Measurement] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    seconds: float = 0.0
    branch_seconds: float = 0.0
    complete: bool = False

    def summaries(self) -> list[Summary]:
        return summarize(self.measurements, self.settings)


def write_results(results: Results, folder: Path, configuration: Mapping[str, Any]) -> list[Path]:
    """Writes marginalization.csv and marginalization.json, each whole or not at all.

    Args:
        results: what was found so far.
        folder: must exist.
        configuration: what was run on what; goes into the JSON as it is.
    """
    summaries = [_flat(summary) for summary in results.summaries()]
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(summaries[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summaries)
    everything = {
        "configuration": dict(configuration),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("mtp_ext", "torch", "transformers")},
        },
        "threads": torch.get_num_threads(),
        "complete": results.complete,
        "seconds": results.seconds,
        "branch_seconds": results.branch_seconds,
        "summary": summaries,
        "timings": [asdict(timing) for timing in results.timings],
        "measurements": [asdict(measurement) for measurement in results.measurements],
    }
    return [
        _write_whole(folder / "marginalization.csv", table.getvalue()),
        _write_whole(folder / "marginalization.json", json.dumps(everything, indent=1) + "\n"),
    ]


def _flat(summary: Summary) -> dict[str, Any]:
    """A summary as columns: an interval `x` becomes `x`, `x_low` and `x_high`."""
    row: dict[str, Any] = {}
    for column in fields(summary):
        value = getattr(summary, column.name)
        if isinstance(value, Interval):
            row[column.name] = value.estimate
            row[f"{column.name}_low"] = None if math.isnan(value.low) else value.low
            row[f"{column.name}_high"] = None if math.isnan(value.high) else value.high
        elif isinstance(value, Setting):
            row |= {"setting": value.name, "top_p": value.top_p, "top_k": value.top_k}
        else:
            row[column.name] = value
    return row


def _write_whole(path: Path, content: str) -> Path:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path
