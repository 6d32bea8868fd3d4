"""`python -m tests.cuda_budget`, which is `make cuda-budget`: writes budget.toml for the machine code that is there."""

import sys

from .budget import FILE, read_budget, text_of
from .machine_code import CUBINS, NO_DISASSEMBLER, compiler_release, find_disassembler, read_kernels
from .occupancy import LIMITS


def main() -> int:
    release, found = compiler_release(), {}
    if find_disassembler() is None:
        print(f"cuda_budget: {NO_DISASSEMBLER}")
    elif release is None:
        print(f"cuda_budget: {CUBINS} holds no machine code: is there an nvcc?")
    else:
        found = read_kernels()
    missing = set(LIMITS) - {architecture for _, architecture in found}
    if missing or release is None:
        print(f"cuda_budget: nothing was written; missing: {', '.join(sorted(missing))}")
        return 1
    dynamic_shared = {name: kernel.dynamic_shared for name, kernel in read_budget().kernels.items()}
    FILE.write_text(text_of(release, found, dynamic_shared))
    print(f"cuda_budget: wrote {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
