"""`mtp-ext study`: the experiments of the paper."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtp_ext.cli import study_help
from mtp_ext.cli.study_help import add_positions, add_shared, add_top_p, add_training, count, rate, share

if TYPE_CHECKING:
    from mtp_ext.study.outcome import Outcome
    from mtp_ext.study.subject import Subject

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Study = Callable[[argparse.Namespace, Path], Outcome]

_TOP_P = [0.5, 0.9, 0.99]
_TOP_K = [1, 8, 64]
_TOP_P_CURVE = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
_STRATEGIES = ("base", "tuned", "frozen", "joint", "warmup", "differential", "both", "weighted", "distill")


def add_parser(commands: "Commands") -> None:
    study = commands.add_parser("study", help="the experiments of arXiv 2502.09419 on a real model")
    studies = study.add_subparsers(title="studies", metavar="STUDY", required=True)

    def add(name: str, help: str, description: str, epilog: str, run: "Study") -> argparse.ArgumentParser:
        parser = studies.add_parser(
            name,
            help=help,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=_run, study=run)
        return parser

    marginalization = add(
        "marginalization",
        "second-token accuracy and likelihood, with the next token summed out",
        study_help.MARGINALIZATION,
        study_help.MARGINALIZATION_EXAMPLES,
        _marginalization,
    )
    add_positions(marginalization, 24)
    add_top_p(marginalization, _TOP_P, "branches that add up to this probability")
    marginalization.add_argument(
        "--top-k",
        type=count,
        nargs="*",
        default=_TOP_K,
        metavar="K",
        help=f"this many branches (default: {' '.join(map(str, _TOP_K))})",
    )
    add_shared(marginalization, "runs/marginalization")

    specialization = add(
        "specialization",
        "the distance of every layer from the model's next token",
        study_help.SPECIALIZATION,
        study_help.SPECIALIZATION_EXAMPLES,
        _specialization,
    )
    add_positions(specialization, 64)
    add_shared(specialization, "runs/specialization")

    branches = add(
        "branches",
        "how many next tokens the nucleus keeps, by top-p, text and model",
        study_help.BRANCHES,
        study_help.BRANCHES_EXAMPLES,
        _branches,
    )
    add_positions(branches, 200)
    add_top_p(branches, _TOP_P_CURVE, "shares of the probability")
    add_shared(branches, "runs/branches", several_models=True)

    heads = add(
        "heads",
        "heads, trained by every strategy of the paper, against marginalization",
        study_help.HEADS,
        study_help.HEADS_EXAMPLES,
        _heads,
    )
    _add_heads(heads)

    everything = add(
        "all", "all of them, and a page with their plots and figures", study_help.ALL, study_help.ALL_EXAMPLES, _all
    )
    everything.add_argument(
        "--positions", type=count, metavar="N", help="positions of each text (default: each study's own)"
    )
    add_training(everything)
    add_shared(everything, "runs/study")
    everything.set_defaults(
        parsers={
            "marginalization": marginalization,
            "specialization": specialization,
            "branches": branches,
            "heads": heads,
        }
    )


def _add_heads(parser: argparse.ArgumentParser) -> None:
    add_training(parser)
    parser.add_argument(
        "--strategies",
        nargs="+",
        choices=_STRATEGIES,
        default=list(_STRATEGIES),
        metavar="NAME",
        help=f"which (default: all of {' '.join(_STRATEGIES)})",
    )
    parser.add_argument("--epochs", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=count, default=8, metavar="N", help="blocks a step (default: %(default)s)")
    parser.add_argument("--block", type=count, default=128, metavar="N", help="tokens a block (default: %(default)s)")
    parser.add_argument(
        "--learning-rate",
        type=rate,
        default=1e-3,
        metavar="R",
        help="peak; with a differential rate the heads' is four times it (default: %(default)s)",
    )
    parser.add_argument(
        "--arithmetic",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the training's products (default: %(default)s)",
    )
    parser.add_argument(
        "--columns",
        type=count,
        metavar="N",
        help="of the unembedding in a step of the heads, sampled without bias: faster, noisier (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add_positions(parser, 32)
    parser.add_argument(
        "--top-p", type=share, default=0.95, metavar="P", help="of marginalization's branches (default: %(default)s)"
    )
    add_shared(parser, "runs/heads")


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


def _heads(options: argparse.Namespace, output: Path) -> "Outcome":
    from mtp_ext.heads.training.settings import Settings
    from mtp_ext.study.heads.samples import draw_samples, standard_library
    from mtp_ext.study.heads.study import study_heads

    subject = _subject(options)
    samples = draw_samples(
        options.train or standard_library(),
        subject.texts,
        subject.tokenizer,
        block=options.block,
        training_tokens=options.training_tokens,
        positions=options.positions,
    )
    settings = Settings(
        epochs=options.epochs,
        batch=options.batch,
        block=options.block,
        learning_rate=options.learning_rate,
        seed=options.seed,
        arithmetic=options.arithmetic,
        columns=options.columns,
        exact_epochs=0,
    )
    return study_heads(subject, samples, output, strategies=options.strategies, settings=settings, top_p=options.top_p)


def _all(options: argparse.Namespace, output: Path) -> "Outcome":
    from mtp_ext.study.everything import study_all

    def study(name: str, folder: Path) -> "Outcome":
        given = {"--model": [options.model], "--texts": options.texts, "--positions": [options.positions]}
        if name == "heads":
            given |= {"--train": options.train, "--training-tokens": [options.training_tokens]}
        words = [
            word
            for option, values in given.items()
            if values and values[0] is not None
            for word in (option, *map(str, values))
        ]
        chosen = options.parsers[name].parse_args([*words, "--output", str(folder)])
        outcome: Outcome = chosen.study(chosen, folder)
        return outcome

    return study_all(list(options.parsers), study, output)


def _subject(options: argparse.Namespace, model: Path | None = None) -> "Subject":
    from mtp_ext.study.subject import load_subject

    print("Loading the model", file=sys.stderr, flush=True)
    return load_subject(model or options.model, options.texts)


def _run(options: argparse.Namespace) -> int:
    """Runs a study and prints what it found; its exit status."""
    try:
        from mtp_ext.study import figures, subject  # noqa: F401  # all that a study needs besides mtp_ext
        from mtp_ext.study.files import open_output
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"study: {error}; run: pip install 'mtp_ext[study]'") from error
    output = open_output(options.output)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    outcome: Outcome = options.study(options, output)
    _show(outcome)
    if outcome.stopped is None:
        return 0
    print(f"mtp-ext: {outcome.stopped}", file=sys.stderr)
    return 2 if outcome.refused else 130


def _show(outcome: "Outcome") -> None:
    if not outcome.tables:
        return
    print(f"\n{outcome.headline}\n")
    for table in outcome.tables:
        print(table.text(), end="\n\n")
    for note in outcome.notes:
        print(textwrap.fill(note, width=100, initial_indent="- ", subsequent_indent="  "))
    print("- Files:", *outcome.files, *outcome.plots)
