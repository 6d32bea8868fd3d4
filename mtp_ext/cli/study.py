"""`mtp-ext study`: the experiments of the paper."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtp_ext.cli import study_help
from mtp_ext.cli.study_help import add_positions, add_shared, add_top_p, count

if TYPE_CHECKING:
    from mtp_ext.study.outcome import Outcome
    from mtp_ext.study.subject import Subject

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Study = Callable[[argparse.Namespace, Path], Outcome]

_TOP_P = [0.5, 0.9, 0.99]
_TOP_K = [1, 8, 64]
_TOP_P_CURVE = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]


def add_parser(commands: "Commands") -> None:
    study = commands.add_parser("study", help="the experiments of arXiv 2502.09419 on a real model")
    studies = study.add_subparsers(title="studies", metavar="STUDY", required=True)

    def add(name: str, help: str, description: str, epilog: str | None, run: "Study") -> argparse.ArgumentParser:
        parser = studies.add_parser(
            name,
            help=help,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=lambda options: _run(options, run))
        return parser

    parser = add(
        "marginalization",
        "second-token accuracy and likelihood, with the next token summed out",
        study_help.MARGINALIZATION,
        study_help.MARGINALIZATION_EXAMPLES,
        _marginalization,
    )
    add_positions(parser, 24)
    add_top_p(parser, _TOP_P, "branches that add up to this probability")
    parser.add_argument(
        "--top-k",
        type=count,
        nargs="*",
        default=_TOP_K,
        metavar="K",
        help=f"this many branches (default: {' '.join(map(str, _TOP_K))})",
    )
    add_shared(parser, "runs/marginalization")

    parser = add(
        "specialization",
        "the distance of every layer from the model's next token",
        study_help.SPECIALIZATION,
        study_help.SPECIALIZATION_EXAMPLES,
        _specialization,
    )
    add_positions(parser, 64)
    add_shared(parser, "runs/specialization")

    parser = add(
        "branches",
        "how many next tokens the nucleus keeps, by top-p, text and model",
        study_help.BRANCHES,
        study_help.BRANCHES_EXAMPLES,
        _branches,
    )
    add_positions(parser, 200)
    add_top_p(parser, _TOP_P_CURVE, "shares of the probability")
    add_shared(parser, "runs/branches", several_models=True)


def _marginalization(options: argparse.Namespace, output: Path) -> "Outcome":
    from mtp_ext.study.marginalization.settings import Setting
    from mtp_ext.study.marginalization.study import study_marginalization

    settings = [Setting(top_k=k) for k in options.top_k] + [Setting(top_p=p) for p in options.top_p]
    return study_marginalization(_subject(options), output, settings=settings, positions=options.positions)


def _specialization(options: argparse.Namespace, output: Path) -> "Outcome":
    from mtp_ext.study.specialization.study import study_specialization

    return study_specialization(_subject(options), output, positions=options.positions)


def _branches(options: argparse.Namespace, output: Path) -> "Outcome":
    from mtp_ext.study.branches.study import study_branches

    models = dict.fromkeys(options.model or [None])
    subjects = [lambda model=model: _subject(options, model) for model in models]
    return study_branches(subjects, output, top_ps=options.top_p, positions=options.positions)


def _subject(options: argparse.Namespace, model: Path | None = None) -> "Subject":
    from mtp_ext.study.subject import load_subject

    print("Loading the model", file=sys.stderr, flush=True)
    return load_subject(model or options.model, options.texts)


def _run(options: argparse.Namespace, study: "Study") -> int:
    """Runs a study and prints what it found; its exit status."""
    try:
        from mtp_ext.study import figures, subject  # noqa: F401  # all that a study needs besides mtp_ext
        from mtp_ext.study.files import open_output
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"study: {error}; run: pip install 'mtp_ext[study]'") from error
    output = open_output(options.output)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    outcome = study(options, output)
    _show(outcome)
    if outcome.stopped is None:
        return 0
    print(f"mtp-ext: {outcome.stopped}", file=sys.stderr)
    return 130


def _show(outcome: "Outcome") -> None:
    if not outcome.tables:
        return
    print(f"\n{outcome.headline}\n")
    for table in outcome.tables:
        print(table.text(), end="\n\n")
    for note in outcome.notes:
        print(textwrap.fill(note, width=100, initial_indent="- ", subsequent_indent="  "))
    print("- Files:", *outcome.files, *outcome.plots)
