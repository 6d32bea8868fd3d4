"""Reads, writes and applies budget.toml."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .machine_code import KernelCode, readable
from .occupancy import LIMITS, blocks_per_sm

FILE = Path(__file__).with_name("budget.toml")
_AT_MOST = ("registers", "shared", "spills")
_AT_LEAST = ("blocks", "loads_16", "stores_16", "hmma")
_HEAD = """\
# What each CUDA kernel may use on each architecture: tests/test_cuda_budget.py holds the machine code to it. `make
# cuda-budget` writes it anew after a change that is meant; read the difference before you commit it.
#
# threads         of a block, and
# dynamic_shared  bytes of shared memory that a launch asks for, at most: `make test-cuda` holds launches to both
# registers       of a thread, at most
# shared          bytes of shared memory that the kernel declares, at most
# spills          instructions that touch local memory: none
# blocks          that an SM holds at a time, at least
# loads_16        instructions that load 16 bytes a thread from global memory, at least
# stores_16       those that store as many, at least
# hmma            instructions of the tensor cores, at least
"""


@dataclass(frozen=True)
class Budget:
    """Of one kernel: its launches, and a row of numbers for each architecture."""

    threads: int
    dynamic_shared: int
    rows: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class BudgetFile:
    """All of them by name, and the release of nvcc whose machine code they are."""

    nvcc: str
    kernels: Mapping[str, Budget]


@cache
def read_budget(path: Path = FILE) -> BudgetFile:
    """The committed file."""
    content = tomllib.loads(path.read_text())
    return BudgetFile(
        content["nvcc"],
        {
            name: Budget(
                kernel["threads"],
                kernel["dynamic_shared"],
                {name: row for name, row in kernel.items() if name in LIMITS},
            )
            for name, kernel in content["kernels"].items()
        },
    )


def row_of(code: KernelCode, architecture: str, dynamic_shared: int) -> dict[str, int]:
    """The numbers of a kernel as they stand in the file."""
    return {
        "registers": code.registers,
        "shared": code.shared,
        "spills": code.spills,
        "blocks": blocks_per_sm(
            architecture, threads=code.threads, registers=code.registers, shared=code.shared + dynamic_shared
        ),
        "loads_16": code.loads_16,
        "stores_16": code.stores_16,
        "hmma": code.hmma,
    }


def violations(budget: BudgetFile, found: Mapping[tuple[str, str], KernelCode]) -> Iterator[str]:
    """A sentence for each number of the machine code that is outside its budget."""
    for (name, architecture), code in found.items():
        kernel = budget.kernels.get(name)
        if kernel is None or architecture not in kernel.rows:
            yield f"{name} on {architecture} has no budget"
            continue
        if code.threads != kernel.threads:
            yield f"{name}: a block must have {kernel.threads} threads, found __launch_bounds__ of {code.threads}"
        allowed = kernel.rows[architecture]
        for column, number in row_of(code, architecture, kernel.dynamic_shared).items():
            if column in _AT_MOST and number > allowed[column]:
                yield f"{name} on {architecture}: {column} must be at most {allowed[column]}, found {number}"
            if column in _AT_LEAST and number < allowed[column]:
                yield f"{name} on {architecture}: {column} must be at least {allowed[column]}, found {number}"
    names = {name for name, _ in found}
    yield from (f"{name} has a budget, but there is no such kernel" for name in budget.kernels if name not in names)


_LAUNCH = re.compile(r"(\S+) grid=\S+ block=(\d+),1,1 shared=(\d+) ")


def launches_beyond(budget: BudgetFile, log: Iterable[str]) -> Iterator[str]:
    """A sentence for each launch (a line of the log of tests/ptx_on_cpu) that asks for more than its budget."""
    for mangled, threads, shared in (found.groups() for line in log if (found := _LAUNCH.match(line))):
        name = readable(mangled)
        kernel = budget.kernels.get(name, Budget(0, 0, {}))
        if int(threads) > kernel.threads or int(shared) > kernel.dynamic_shared:
            yield (
                f"{name}: a launch must have at most {kernel.threads} threads a block and {kernel.dynamic_shared} bytes"
                f" of dynamic shared memory, found {threads} and {shared}"
            )


def text_of(nvcc: str, found: Mapping[tuple[str, str], KernelCode], dynamic_shared: Mapping[str, int]) -> str:
    """The file for this machine code. `dynamic_shared`: by kernel; 0 where it is not in there."""
    lines = [_HEAD + f'nvcc = "{nvcc}"']
    for name in sorted({name for name, _ in found}):
        codes = {architecture: found[name, architecture] for architecture in LIMITS if (name, architecture) in found}
        dynamic = dynamic_shared.get(name, 0)
        lines += ["", f'[kernels."{name}"]', f"threads = {next(iter(codes.values())).threads}"]
        lines += [f"dynamic_shared = {dynamic}"]
        for architecture, code in codes.items():
            numbers = row_of(code, architecture, dynamic).items()
            row = ", ".join(f"{column} = {number:{_WIDTH.get(column, 1)}}" for column, number in numbers)
            lines.append(f"{architecture:6} = {{ {row} }}")
    return "\n".join([*lines, ""])


_WIDTH = {
    "registers": 3,
    "shared": 5,
    "blocks": 2,
    "loads_16": 3,
    "stores_16": 2,
    "hmma": 3,
}  # digits, so that columns stand in line
