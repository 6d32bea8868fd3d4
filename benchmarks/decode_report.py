"""The table and the plot of benchmarks/decode.py, from its results.json.

python benchmarks/decode_report.py runs/bench-decode
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from matplotlib.figure import Figure

Record = dict[str, Any]


def report(folder: Path) -> str:
    """Writes report.md and speed.png, and returns the report."""
    results = json.loads((folder / "results.json").read_text())
    lines = [
        f"# Decoding: {results['new_tokens']} new tokens, batch 1, medians of {results['rounds']} rounds",
        "",
        "tokens/s without the prefill; in brackets how many times as fast as transformers' greedy decoding in the same "
        "arithmetic (of other engines: as the first row), in the same round. \\* other tokens than that.",
    ]
    for threads, records in _by(results["records"], "threads"):
        lines += ["", f"## {threads} thread{'s' if threads > 1 else ''}", "", *_table(records), *_overheads(records)]
    text = "\n".join(lines) + "\n"
    (folder / "report.md").write_text(text)
    _plot(results["records"]).savefig(folder / "speed.png", dpi=110)
    return text


def _by(records: list[Record], key: str) -> list[tuple[Any, list[Record]]]:
    """Groups in the order in which they first appear."""
    order = list(dict.fromkeys(record[key] for record in records))
    ranked = sorted(records, key=lambda record: order.index(record[key]))
    return [(value, list(group)) for value, group in groupby(ranked, key=lambda record: record[key])]


def _table(records: list[Record]) -> list[str]:
    kinds = [kind for kind, _ in _by(records, "kind")]
    lines = [
        f"| | {' | '.join(kinds)} | decoding, geometric mean | with prefill | least |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for variant, of_variant in _by(records, "variant"):
        cells = []
        for _, of_kind in _by(of_variant, "kind"):
            rate = geometric_mean(record["tokens_per_second"] for record in of_kind)
            ratio = geometric_mean(record["decode_ratio"] for record in of_kind)
            other = "" if all(record["same_tokens"] for record in of_kind) else " \\*"
            cells.append(f"{rate:.1f} ({ratio:.2f}){other}")
        decode = geometric_mean(record["decode_ratio"] for record in of_variant)
        whole = geometric_mean(record["whole_ratio"] for record in of_variant)
        least = min(record["decode_ratio"] for record in of_variant)
        lines.append(f"| {variant} | {' | '.join(cells)} | {decode:.2f} | {whole:.2f} | {least:.2f} |")
    return lines


def _overheads(records: list[Record]) -> list[str]:
    """What a pass costs beside the forward pass, and what drafts brought."""
    lines = ["", "| | tokens a pass | drafts accepted | drafting | verification | loop |", "|---" * 6 + "|"]
    for variant, of_variant in _by(records, "variant"):
        details = [record["details"] for record in of_variant if record["details"]]
        if details:
            means = [
                sum(each["seconds_a_pass"][name] for each in details) / len(details)
                for name in ("drafting", "verification", "loop")
            ]
            passes = sum(each["tokens_per_pass"] for each in details) / len(details)
            share = sum(each["accepted_share"] for each in details) / len(details)
            times = " | ".join(f"{1e3 * mean:.2f} ms" for mean in means)
            lines.append(f"| {variant} | {passes:.2f} | {100 * share:.0f} % | {times} |")
    return lines


def _plot(records: list[Record]) -> Figure:
    panels = _by(records, "threads")
    figure = Figure(figsize=(10, 4.5 * len(panels)), layout="constrained")
    for axis, (threads, of_threads) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        variants = _by(of_threads, "variant")
        width = 0.8 / len(variants)
        kinds = [kind for kind, _ in _by(of_threads, "kind")]
        for place, (variant, of_variant) in enumerate(variants):
            rates = [
                geometric_mean(record["tokens_per_second"] for record in of_kind)
                for _, of_kind in _by(of_variant, "kind")
            ]
            axis.bar([kind + width * place for kind in range(len(kinds))], rates, width, label=variant)
        axis.set_xticks([kind + 0.4 - width / 2 for kind in range(len(kinds))], kinds)
        axis.set_ylabel("tokens/s, without the prefill")
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    print(report(Path(sys.argv[1])))
