"""Decoding with a real model: ours and transformers', interleaved in one process.

    python benchmarks/decode.py --rounds 7 --threads 1 2 --dtypes float32 bfloat16

Each round decodes each prompt once by each variant, in an order that turns; medians over the rounds are compared.
Writes results.json, report.md and speed.png.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

import decode_report
import torch
from decode_engines import ENGINES, engines
from decode_variants import Decoded, Variant, variants

from mtp_ext.heads import SMOLLM2_HEADS
from mtp_ext.integrations.smollm2 import smollm2_gguf
from mtp_ext.integrations.transformers import load_model
from mtp_ext.testing import threads
from mtp_ext.testing_prompts import KINDS, Prompt, load_prompts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=1, help="of each kind (default: 1)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--draft-layers", type=int, default=6)
    parser.add_argument("--heads", type=Path, help="MTP heads of the model that draft (default: SmolLM2's)")
    parser.add_argument(
        "--gguf", type=Path, help="a file of the model for llama.cpp and OpenVINO GenAI (default: SmolLM2's)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench-decode"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    models = {name: load_model(options.model, DTYPES[name])[0] for name in options.dtypes}
    tokenizer = load_model(options.model)[1]
    if options.model is None:
        options.heads, options.gguf = options.heads or SMOLLM2_HEADS, options.gguf or smollm2_gguf()
    compared = variants(models, options.draft_layers, options.heads) | engines(options.gguf)
    records: list[dict[str, Any]] = []
    for count in options.threads:
        with threads(count):
            for prompt in chosen_prompts(options.kinds, options.prompts):
                ids = prompt.input_ids(tokenizer)
                runs = interleaved(compared, ids, options.rounds, options.new_tokens)
                records += [record(prompt, count, name, runs) for name in compared]
                best = max(records[-len(compared) :], key=lambda entry: entry["tokens_per_second"])
                print(
                    f"threads {count}, {prompt.kind}: {best['variant']} {best['tokens_per_second']:.0f} tokens/s",
                    file=sys.stderr,
                    flush=True,
                )
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
    results = {
        "machine": machine | {"capability": torch.backends.cpu.get_cpu_capability()},
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "records": records,
    }
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    print(decode_report.report(options.output))


def chosen_prompts(kinds: list[str], count: int) -> list[Prompt]:
    prompts = load_prompts()
    return [prompt for kind in kinds for prompt in [each for each in prompts if each.kind == kind][:count]]


def interleaved(
    compared: dict[str, Variant], input_ids: torch.Tensor, rounds: int, new_tokens: int
) -> dict[str, list[Decoded]]:
    """All runs of each variant; a short one, which is not counted, goes before: packing, and the cost curve."""
    for variant in compared.values():
        variant(input_ids, 8)
    runs: dict[str, list[Decoded]] = {name: [] for name in compared}
    names = list(compared)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(compared[name](input_ids, new_tokens))
    return runs


def record(prompt: Prompt, count: int, name: str, runs: dict[str, list[Decoded]]) -> dict[str, Any]:
    """Medians of one variant, and of the ratios in the same round to transformers' greedy decoding: in the same dtype,
    or of other engines in the first that there is."""
    dtype = name.replace(",", "").split()[-1 if name.startswith(ENGINES) else 1]
    base = runs.get(f"transformers {dtype}") or next(iter(runs.values()))
    own = runs[name]
    decode = [their.decode_seconds / our.decode_seconds for their, our in zip(base, own, strict=True)]
    whole = [
        (their.prefill_seconds + their.decode_seconds) / (our.prefill_seconds + our.decode_seconds)
        for their, our in zip(base, own, strict=True)
    ]
    return {
        "kind": prompt.kind,
        "prompt": prompt.text.strip()[:60],
        "threads": count,
        "variant": name,
        "dtype": dtype,
        "prefill_seconds": median(run.prefill_seconds for run in own),
        "decode_seconds": median(run.decode_seconds for run in own),
        "tokens_per_second": median((len(run.tokens) - 1) / run.decode_seconds for run in own),
        "decode_ratio": median(decode),
        "decode_ratio_least": min(decode),
        "whole_ratio": median(whole),
        "same_tokens": all(run.tokens == base[0].tokens for run in own),
        "details": own[-1].details,
    }


if __name__ == "__main__":
    main()
