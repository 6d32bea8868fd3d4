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
def _program() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """The program, compiled for this very machine, and the folder that lives as long as it is needed."""
    folder = tempfile.TemporaryDirectory()
    program = Path(folder.name) / "ceilings"
    flags = ["-std=c++17", "-O3", "-march=native", "-Wno-psabi", "-pthread"]
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
