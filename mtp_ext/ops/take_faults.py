"""Contract of `take_faults`: what CUDA kernels met since the last call, one sentence a line, waiting for them.

The CUDA library has it; without that library there is nothing to report.
"""

from mtp_ext.ops.library import define

take_faults = define("take_faults() -> str", check=lambda: None, reference=lambda: "", fake=lambda: "")
