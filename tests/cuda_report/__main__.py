"""`python -m tests.cuda_report`, which is `make cuda-report`: prints the report and writes runs/cuda/report.md."""

import sys
from pathlib import Path

from ..cuda_budget.budget import read_budget
from ..ptx_on_cpu.build import find_toolkit
from ..ptx_on_cpu.load import load_extension

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    try:
        find_toolkit()
    except FileNotFoundError as error:
        print(f"cuda_report: {error}")
        return 1
    control = load_extension("compute_80")
    from .counting import count
    from .kernels import OPS
    from .report import report

    counts = {}
    for name in OPS:
        print(f"cuda_report: counting {name}", flush=True)
        counts[name] = list(count(control, name))
    budget = read_budget()
    text = report(budget.nvcc, budget, counts)
    path = ROOT / "runs/cuda/report.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"\n{text}\ncuda_report: wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
