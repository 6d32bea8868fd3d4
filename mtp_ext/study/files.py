"""The files of a study: each appears whole or not at all, so that a stopped run leaves what it had."""

import csv
import io
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mtp_ext.study.intervals import Interval


def open_output(folder: Path) -> Path:
    """Makes the folder where it is missing.

    Raises:
        ValueError: it cannot be, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "probe", "").unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"study: --output must be a folder that can be written to, got {folder}: {reason}") from error
    return folder


def write_whole(path: Path, content: str) -> Path:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """At least one row; all have the columns of the first."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_whole(path, table.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """With the versions it was made by."""
    versions = {"python": platform.python_version()}
    versions |= {name: version(name) for name in ("mtp_ext", "torch", "transformers")}
    everything = {"versions": versions, "threads": torch.get_num_threads(), **content}
    return write_whole(path, json.dumps(everything, indent=1) + "\n")


def columns(row: Any) -> dict[str, Any]:
    """The fields of a dataclass as columns: an interval `x` becomes `x`, `x_low` and `x_high`; NaN becomes None."""
    out: dict[str, Any] = {}
    for column in fields(row):
        value = getattr(row, column.name)
        if isinstance(value, Interval):
            out[column.name] = value.estimate
            out[f"{column.name}_low"], out[f"{column.name}_high"] = _known(value.low), _known(value.high)
        else:
            out[column.name] = value
    return out


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


class Parts:
    """The parts of a study that are done, a file each: a run that was stopped goes on behind them.

    Args:
        folder: must exist.
        configuration: what the parts depend on, as JSON takes it; those of another configuration are done again.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self._folder = folder / "parts"
        self._configuration = json.loads(json.dumps(configuration))

    def get(self, name: str) -> Any:
        """What `put` has kept under this name, or None."""
        try:
            found = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or (found.get("name"), found.get("configuration")) != (
            name,
            self._configuration,
        ):
            return None
        return found.get("value")

    def put(self, name: str, value: Any) -> None:
        self._folder.mkdir(exist_ok=True)
        content = {"name": name, "configuration": self._configuration, "value": value}
        write_whole(self._path(name), json.dumps(content) + "\n")

    def _path(self, name: str) -> Path:
        return self._folder / (re.sub(r"\W+", "-", name) + ".json")
