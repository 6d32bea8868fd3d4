"""All studies, and a page about them."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mtp_ext.study.files import open_output
from mtp_ext.study.outcome import Outcome, Table
from mtp_ext.study.page import write_page

_PAGE = "study.html"
_TITLE = "What a model knows of the token after the next one"
_ABOUT = (
    "The experiments of arXiv 2502.09419 (Mehra, Alonso Garcia, Mauch, On multi-token prediction for efficient LLM "
    "inference), by mtp-ext study all.",
)


def study_all(names: Sequence[str], study: Callable[[str, Path], Outcome], output: Path) -> Outcome:
    """Runs the studies in turn; each finished one is in the page `output`/study.html at once.

    A study that refuses its model or texts is named in the page with its reason, and the others go on; Ctrl-C ends
    them all.

    Args:
        names: of the studies.
        study: runs one of them with its files in a folder.
        output: a folder, for the page and a folder for each study.
    """
    outcomes: list[Outcome] = []
    for name in names:
        print(f"\n{name}", file=sys.stderr, flush=True)
        try:
            outcomes.append(study(name, open_output(output / name)))
        except (ValueError, OSError, ImportError) as error:
            outcomes.append(Outcome(name, "", stopped=str(error), refused=True))
            continue
        finally:
            if outcomes:
                page = write_page(output / _PAGE, _TITLE, _ABOUT, outcomes)
        if outcomes[-1].stopped:
            break
    unfinished = [outcome for outcome in outcomes if outcome.stopped]
    rows = [(o.study, "not complete" if o.stopped else "done", str(output / o.study)) for o in outcomes]
    return Outcome(
        study="all",
        headline=_TITLE,
        tables=[Table("Studies:", ("study", "state", "files"), rows)],
        files=[page],
        stopped="; ".join(f"{outcome.study}: {outcome.stopped}" for outcome in unfinished) or None,
        refused=any(outcome.refused for outcome in unfinished) and all(outcome.refused for outcome in unfinished),
    )
