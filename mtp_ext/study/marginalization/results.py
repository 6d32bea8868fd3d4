"""What the study has found so far, and its files: CSV for the summary, JSON for everything."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtp_ext.study.files import columns, write_csv, write_json
from mtp_ext.study.marginalization.measurement import Measurement
from mtp_ext.study.marginalization.settings import Setting
from mtp_ext.study.marginalization.summary import Summary, summarize
from mtp_ext.study.marginalization.timing import Timing


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
    everything = {
        "configuration": dict(configuration),
        "complete": results.complete,
        "seconds": results.seconds,
        "branch_seconds": results.branch_seconds,
        "summary": summaries,
        "timings": [asdict(timing) for timing in results.timings],
        "measurements": [asdict(measurement) for measurement in results.measurements],
    }
    return [
        write_csv(folder / "marginalization.csv", summaries),
        write_json(folder / "marginalization.json", everything),
    ]


def _flat(summary: Summary) -> dict[str, Any]:
    row = columns(summary)
    setting: Setting = row.pop("setting")
    kind = row.pop("kind")
    return {"kind": kind, "setting": setting.name, "top_p": setting.top_p, "top_k": setting.top_k, **row}
