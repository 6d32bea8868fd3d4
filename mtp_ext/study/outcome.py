"""What a study has to say, in a form that a terminal and a page can show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """A caption, the names of the columns, and rows of words; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal: the first column to the left, the others to the right."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        names, *numbers = widths
        formatted = (
            f"  {line[0]:<{names}}"
            + "".join(f"  {word:>{width}}" for word, width in zip(line[1:], numbers, strict=True))
            for line in lines
        )
        return "\n".join([self.caption, *formatted])


@dataclass(frozen=True)
class Outcome:
    """The result of a study.

    Attributes:
        study: its name, as on the command line.
        headline: what was measured, on which model.
        tables: the figures.
        notes: what they mean, and what the sample can and cannot tell; a sentence or two each.
        plots, files: PNG files; CSV and JSON files.
        stopped: None, or where it was stopped before its end, or why it did not begin.
        refused: whether that was a refusal.
    """

    study: str
    headline: str
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    plots: Sequence[Path] = ()
    files: Sequence[Path] = ()
    stopped: str | None = None
    refused: bool = False


def percent(estimate: float, low: float, high: float) -> str:
    """A share and its interval, such as `46 [36, 56]`."""
    return f"{100 * estimate:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def number(estimate: float, low: float, high: float, digits: int = 2) -> str:
    """A mean and its interval."""
    return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
