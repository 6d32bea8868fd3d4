"""What this machine could do at best, measured by ceilings.cpp."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Ceilings:
    """Bytes read from memory, and exponentials computed, in a second, on some number of threads."""

    bytes_per_second: float
    exponentials_per_second: float


@cache
def measure(threads: int) -> Ceilings:
    """Compiles the program for this very machine and runs it on `threads` threads; takes a few seconds.

    Raises:
        FileNotFoundError, subprocess.CalledProcessError: no C++ compiler, or it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceilings"
        compiler = os.environ.get("CXX", "c++")
        flags = ["-std=c++17", "-O3", "-march=native", "-Wno-psabi", "-pthread"]
        subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(program)], check=True)
        line = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    return Ceilings(*map(float, line.split()))
