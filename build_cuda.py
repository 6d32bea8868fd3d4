"""How setup.py has nvcc compile csrc/cuda/*.cu: one object a file, with machine code for every architecture.

The PTX of three virtual architectures is compiled to the machine code of six real ones and is kept in the object too,
for devices to come. Everything nvcc makes on the way stays in build/cuda/NAME/: tests execute that PTX on a CPU, and
read registers and instructions off the machine code.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PTX = (80, 90, 100)
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
FOLDER = Path("build/cuda")


def find_nvcc() -> Path | None:
    """That of CUDA_HOME where it is set, otherwise the one on the path, otherwise that of /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    candidates = [Path(home) / "bin/nvcc"] if home else [Path("/usr/local/cuda/bin/nvcc")]
    if not home and (found := shutil.which("nvcc")):
        candidates.insert(0, Path(found))
    return next((nvcc for nvcc in candidates if nvcc.is_file()), None)


def toolkit(nvcc: Path) -> Path:
    """The folder that nvcc takes its headers and libraries from; nvcc itself may be a script or a link."""
    dryrun = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    (top,) = re.findall(r"^#\$ TOP=(.*)$", dryrun.stderr, re.MULTILINE)
    return Path(top).resolve()


def targets() -> dict[int, list[str]]:
    """What to make of the PTX of each virtual architecture: code for these real ones, and the PTX itself.

    TORCH_CUDA_ARCH_LIST, such as "8.0;9.0+PTX", narrows it.
    """
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if not wanted:
        wanted = [f"{number // 10}.{number % 10}" + ("+PTX" if number in PTX else "") for number in ARCHITECTURES]
    result: dict[int, list[str]] = {}
    for name in wanted:
        match = re.fullmatch(r"(\d+)\.(\d)(\+PTX)?", name)
        number = int(match[1]) * 10 + int(match[2]) if match else 0
        if number < PTX[0]:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST must name architectures from 8.0 on, as 8.0 9.0+PTX, got {name}")
        virtual = max(ptx for ptx in PTX if ptx <= number)
        codes = result.setdefault(virtual, [])
        codes += [f"sm_{number}"] + ([f"compute_{virtual}"] if match[3] else [])
    return result


def describe(wanted: dict[int, list[str]]) -> str:
    """sm_80, sm_90, PTX of compute_90"""
    codes = [code for codes in wanted.values() for code in codes]
    return ", ".join(code if code.startswith("sm_") else f"PTX of {code}" for code in codes)


def compile_objects(nvcc: Path, sources: list[str]) -> list[str]:
    """Compiles what is out of date, by ninja and as many jobs at a time as MAX_JOBS says, and returns the objects."""
    architectures = [
        f"-gencode arch=compute_{virtual},code=[{','.join(codes)}]" for virtual, codes in targets().items()
    ]
    lines = [
        "rule nvcc",
        # Emptied first: nvcc names what it keeps after the targets when there are several, and old files would stay.
        f"  command = rm -rf $keep && mkdir -p $keep && {nvcc} {' '.join(FLAGS + architectures)} "
        "--keep --keep-dir $keep -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    objects = []
    for source in sources:
        keep = FOLDER / Path(source).stem
        objects.append(f"{keep}.o")
        lines += [f"build {keep}.o: nvcc {source}", f"  keep = {keep}"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    plan = FOLDER / "build.ninja"
    plan.write_text("\n".join([f"builddir = {FOLDER}", *lines, ""]))
    jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
    subprocess.run([sys.executable, "-m", "ninja", "-f", plan, *jobs], check=True)
    return objects
