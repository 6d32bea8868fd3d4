"""What this machine could do at best, measured by ceilings.cpp."""

import ctypes
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

# Those of setup.py, so that the ceiling is that of the library which runs.
_FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}
_FOLDER = Path(__file__).parent
_SOURCES = [_FOLDER / "ceilings.cpp", _FOLDER.parent / "csrc" / "cpu" / "brgemm.cpp"]


@dataclass(frozen=True)
class Ceilings:
    """What some number of threads do in a second.

    Attributes:
        bytes_per_second: read from memory.
        exponentials_per_second: of float32 numbers in a cache.
        float32_operations_per_second, bfloat16_operations_per_second: of matrix products, two a multiply-add.
    """

    bytes_per_second: float
    exponentials_per_second: float
    float32_operations_per_second: float
    bfloat16_operations_per_second: float


@cache
def _library() -> ctypes.CDLL:
    """Compiled for the loaded instruction set, and loaded beside torch, whose matrix products it calls."""
    capability = _FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])
    flags = ["-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread", *capability, "-Wno-psabi"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        subprocess.run([os.environ.get("CXX", "c++"), *flags, *_SOURCES, "-ldl", "-o", library], check=True)
        return ctypes.CDLL(str(library))


def measure(threads: int) -> Ceilings:
    """What `threads` threads can do now; on a busy machine it takes several measurements to see all of it.

    Raises:
        FileNotFoundError, subprocess.CalledProcessError: no C++ compiler, or it failed.
    """
    rates = (ctypes.c_double * 4)()
    _library().measure_ceilings(ctypes.c_int64(threads), rates)
    return Ceilings(*rates)
