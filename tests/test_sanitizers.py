"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, built for each instruction set of this CPU.

Kernels know nothing of torch, so that a small program can run them: those in sanitize/.
"""

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import setuptools
import torch

from mtp_ext.testing import has_kernel

REPOSITORY = Path(__file__).parent.parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
SOURCES = {
    "marginalization": [
        "tests/sanitize/marginalization.cpp",
        "csrc/cpu/joint_topk_kernel.cpp",
        "csrc/cpu/mixture_kernel.cpp",
        "csrc/cpu/mixture_topk_kernel.cpp",
        "csrc/cpu/normalizer_kernel.cpp",
        "csrc/cpu/select_branches_kernel.cpp",
    ],
    "skinny_linear": ["tests/sanitize/skinny_linear.cpp", "csrc/cpu/skinny_linear_kernel.cpp"],
    "tree_attention": [
        "tests/sanitize/tree_attention.cpp",
        "csrc/cpu/brgemm.cpp",
        "csrc/cpu/tree_attention_kernel.cpp",
    ],
    "verification": [
        "tests/sanitize/verification.cpp",
        "csrc/cpu/argmax_kernel.cpp",
        "csrc/cpu/normalizer_kernel.cpp",
        "csrc/cpu/target_row_kernel.cpp",
        "csrc/cpu/token_masses_kernel.cpp",
        "csrc/cpu/verify_sampling_kernel.cpp",
    ],
}
FLAGS = ["-std=c++17", "-O0", "-Icsrc", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def instruction_sets() -> dict[str, list[str]]:
    """The compiler flags of those that this CPU runs, from the table of setup.py; each includes those before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTP_EXT_BUILD", "none")
        patch.setattr(setuptools, "setup", lambda: None)
        table = runpy.run_path(str(REPOSITORY / "setup.py"))["INSTRUCTION_SETS"]
    last = list(table).index(torch.backends.cpu.get_cpu_capability().lower())
    return dict(list(table.items())[: last + 1])


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, subprocess.Popen[str]]]:
    """The programs for each instruction set with their compilations; all of them run at the same time."""
    folder = tmp_path_factory.mktemp("sanitize")
    return {
        (program, name): (
            folder / f"{program}-{name}",
            subprocess.Popen(
                [COMPILER, *FLAGS, *flags, *sources, "-o", folder / f"{program}-{name}"],
                cwd=REPOSITORY,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )
        for program, sources in SOURCES.items()
        for name, flags in instruction_sets().items()
    }


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is found")
@pytest.mark.skipif(not has_kernel("marginalize", "cpu"), reason="no kernel was built; these build their own")
@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("program", SOURCES)
def test_kernels(programs: dict[tuple[str, str], tuple[Path, subprocess.Popen[str]]], program: str, name: str) -> None:
    executable, compilation = programs[program, name]
    _, messages = compilation.communicate()
    assert compilation.returncode == 0, messages
    # Leaks are not looked for: that takes ptrace, which containers forbid; kernels free what they allocate by its type.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([executable], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
