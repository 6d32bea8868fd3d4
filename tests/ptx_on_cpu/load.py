"""Puts the CUDA library, executed on the CPU, in the place of the CPU kernels of this process."""

import ctypes

from .build import build
from .control import Control


def load_extension(architecture: str, schedule: str = "in-order") -> Control:
    """Builds what is out of date and loads it. Before anything imports mtp_ext."""
    built = build(architecture)
    # First the stand-in: whatever needs libcudart.so.13 later, the shipped library included, gets this one.
    control = Control(built.runtime)
    control.choose_device(architecture)
    control.set_schedule(schedule)
    import torch

    ctypes.CDLL(str(built.torch_memory)).ptx_on_cpu_watch_torch()
    import mtp_ext  # noqa: F401  registers the CPU kernels, which the extension then replaces

    torch.ops.load_library(built.extension)
    return control
