"""What limits each CUDA kernel, without a GPU: bytes, operations, occupancy, and counted memory accesses."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # its modules name each other without a package
