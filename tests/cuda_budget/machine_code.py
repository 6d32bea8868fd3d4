"""What is in the cubins that nvcc keeps in build/cuda/: registers, memory and instructions of each kernel.

NVIDIA's disassembler comes from PyPI (the extra `dev`), which has it for machines without a toolkit too.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

CUBINS = Path(__file__).resolve().parents[2] / "build/cuda"
RESERVED_SHARED = 1024  # bytes of each block, for the driver; from sm_90 on a part of what a cubin says
_PACKAGES = ("nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm")
NO_DISASSEMBLER = f"there is no disassembler for machine code: pip install {' '.join(_PACKAGES)}"


@dataclass(frozen=True)
class KernelCode:
    """One kernel on one architecture.

    Attributes:
        threads: of a block, at most (`__launch_bounds__`).
        registers: of a thread.
        shared: bytes of shared memory that are declared in the kernel.
        spills: instructions that read or write local memory, where registers are spilled to.
        loads_16, stores_16: instructions that load and store 16 bytes a thread from and to global memory.
        hmma: instructions of the tensor cores.
    """

    threads: int
    registers: int
    shared: int
    spills: int
    loads_16: int
    stores_16: int
    hmma: int


def find_disassembler() -> Path | None:
    """cuobjdump, which needs nvdisasm beside it: that of PyPI's packages, otherwise the one on the path."""
    found = []
    for package in _PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            break
        name = package.rpartition("-")[2]
        found += [Path(file.locate()) for file in files if file.name == name]
    if len(found) == len(_PACKAGES):
        return found[0]
    on_path = shutil.which("cuobjdump")
    return Path(on_path) if on_path and shutil.which("nvdisasm") else None


def compiler_release() -> str | None:
    """Of the nvcc that made the cubins, as 13.0; None where there are none."""
    for ptx in sorted(CUBINS.glob("*/*.ptx")):
        if found := re.search(r"^// Cuda compilation tools, release ([\d.]+)", ptx.read_text(), re.MULTILINE):
            return found[1]
    return None


def read_kernels() -> dict[tuple[str, str], KernelCode]:
    """By kernel, as mix_kernel<float, true>, and architecture, as sm_80. Takes a second a cubin, the first time."""
    threads: dict[str, int] = {}
    for ptx in CUBINS.glob("*/*.ptx"):
        threads |= {name: int(count) for name, count in _ENTRY.findall(ptx.read_text())}
    kernels = {}
    for cubin in sorted(CUBINS.glob("*/*.cubin")):
        code = _disassemble(cubin)
        for name, counts in code["kernels"].items():
            kernels[readable(name), code["architecture"]] = _kernel_code(counts, threads[name])
    return dict(sorted(kernels.items()))


@cache
def readable(mangled: str) -> str:
    """_ZN7mtp_ext4cuda10mix_kernelIfLb1EEEvNS0_9MixParamsIT_EE -> mix_kernel<float, true>"""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype = ctypes.c_char_p
    name = (demangle(mangled.encode(), None, None, None) or mangled.encode()).decode()
    return re.sub(r"\b(void |mtp_ext::|cuda::|\(int\))", "", name).partition("(")[0]


_ENTRY = re.compile(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)")
_RESOURCES = re.compile(r"^ Function (\w+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)", re.MULTILINE)
_CODE = re.compile(r"^\s+Function : (\w+)\s*$")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)")


def _disassemble(cubin: Path) -> dict:
    """{architecture, kernels: {mangled name: {registers, shared, opcodes: {opcode: count}}}}.

    Kept beside the cubin, in the folder that nvcc's rule empties before it compiles anew.
    """
    kept = cubin.with_suffix(".cubin.json")
    if not kept.exists():
        tool = find_disassembler()
        assert tool is not None, NO_DISASSEMBLER
        environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
        command = [tool, "-res-usage", "-sass", cubin]
        text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        kept.write_text(json.dumps(_parse(text)))
    return json.loads(kept.read_text())


def _parse(text: str) -> dict:
    architecture = re.search(r"^\s*code for (sm_\d+)", text, re.MULTILINE)[1]
    kernels = {
        name: {"registers": int(registers), "shared": int(shared), "opcodes": Counter()}
        for name, registers, shared in _RESOURCES.findall(text)
    }
    if int(architecture.removeprefix("sm_")) >= 90:
        for kernel in kernels.values():
            kernel["shared"] = max(0, kernel["shared"] - RESERVED_SHARED)
    opcodes: Counter[str] = Counter()
    for line in text.splitlines():
        if found := _CODE.match(line):
            opcodes = kernels[found[1]]["opcodes"]
        elif found := _INSTRUCTION.match(line):
            opcodes[found[1]] += 1
    return {"architecture": architecture, "kernels": kernels}


def _kernel_code(counts: dict, threads: int) -> KernelCode:
    def count(pattern: str) -> int:
        return sum(number for opcode, number in counts["opcodes"].items() if re.match(pattern, opcode))

    return KernelCode(
        threads=threads,
        registers=counts["registers"],
        shared=counts["shared"],
        spills=count(r"(LDL|STL)\b"),
        loads_16=count(r"(LDG|LDGSTS)\b.*\.128\b"),
        stores_16=count(r"STG\b.*\.128\b"),
        hmma=count(r"HMMA\b"),
    )
