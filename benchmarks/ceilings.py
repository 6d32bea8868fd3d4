"""What this machine could do at best, measured by ceilings.cpp."""

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
_SOURCE = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Ceilings:
    """Bytes read from memory, and exponentials computed, in a second, on some number of threads."""

    bytes_per_second: float
    exponentials_per_second: float


@cache
def _program() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """The program, compiled for the loaded instruction set, and the folder that lives as long as it is needed."""
    folder = tempfile.TemporaryDirectory()
    program = Path(folder.name) / "ceilings"
    capability = _FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])
    flags = ["-std=c++17", "-O3", *capability, "-Wno-psabi", "-pthread"]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, str(_SOURCE), "-o", str(program)], check=True)
    return program, folder


def measure(threads: int) -> Ceilings:
    """What `threads` threads can do now; on a busy machine it takes several measurements to see all of it.

    Raises:
        FileNotFoundError, subprocess.CalledProcessError: no C++ compiler, or it failed.
    """
    program, _ = _program()
    done = subprocess.run([program, str(threads)], check=True, stdout=subprocess.PIPE, text=True)
    return Ceilings(*map(float, done.stdout.split()))
