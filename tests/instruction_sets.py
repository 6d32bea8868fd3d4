"""The compiled CPU instruction sets, and how laws are tried on one of them: in a process that is told to use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtp_ext.libraries import Library

INSTRUCTION_SETS = ["default", "avx2", "avx512"]  # each includes those before it
CAPABILITY = torch.backends.cpu.get_cpu_capability().lower()


def instruction_set_of(library: Library) -> str:
    """Skips what this CPU cannot run."""
    name = library.name.removeprefix("cpu_")
    if INSTRUCTION_SETS.index(name) > INSTRUCTION_SETS.index(CAPABILITY):
        pytest.skip(f"this CPU runs as {CAPABILITY}")
    return name


def assert_laws_hold(library: Library, *tests: str, **variables: str) -> None:
    """Fails unless these tests, FILE or FILE::TEST of this folder, pass on the instruction set of `library`, with these
    environment variables."""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": instruction_set_of(library)} | variables
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *[f"{folder / test}" for test in tests]]
    done = subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
