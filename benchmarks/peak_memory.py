"""Measures how much memory one call of an op takes beyond its inputs and outputs, at each of its shapes.

    python peak_memory.py OP [--smallest]

One JSON object a line: op, shape, dtype, threads, and the peak in bytes of ours and of eager PyTorch. Each
call runs in a fresh fork, after a small one that loads the code.
"""

import argparse
import json
import multiprocessing
import os
import sys
from dataclasses import asdict, replace
from typing import Any

# glibc keeps what is freed, and a call that reuses it would seem to need nothing: give it back at once.
if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch
from cases import Case, cases
from jobs import JOBS
from process_memory import peak_growth
from round_robin import Call


def _peak_bytes(call: Call) -> int:
    """What the process grew by at most during `call`, without what the result still holds."""
    peak, result = peak_growth(call)
    outputs = [result] if isinstance(result, torch.Tensor) else result
    return peak - sum(tensor.nbytes for tensor in outputs)


def _measure(arguments: tuple[str, Case, str]) -> int:
    op, case, variant = arguments
    make_job = JOBS[op].make_job
    torch.set_num_threads(case.threads)
    with torch.inference_mode():
        small = make_job(replace(case, shape=JOBS[op].small))
        getattr(small, variant)()
        del small
        return _peak_bytes(getattr(make_job(case), variant))


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of one op, a JSON object a case.")
    parser.add_argument("op", choices=JOBS)
    parser.add_argument("--smallest", action="store_true", help="only the smallest shape")
    options = parser.parse_args()
    shapes = JOBS[options.op].shapes
    chosen = cases(shapes)[:1] if options.smallest else cases(shapes)
    # This process never starts torch's threads, so that its forks can.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for case in chosen:
            peaks: dict[str, Any] = {
                variant: pool.apply(_measure, ((options.op, case, variant),)) for variant in ("ours", "eager")
            }
            print(json.dumps({"op": options.op, **asdict(case), "peak_bytes": peaks}), flush=True)


if __name__ == "__main__":
    main()
