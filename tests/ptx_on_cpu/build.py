"""Builds what runs the CUDA library on a CPU, into build/ptx_on_cpu/: `python -m tests.ptx_on_cpu.build compute_80`.

The launch objects and the PTX are those of the shipped library (build_cuda.py); bindings are compiled anew for torch's
CPU key. Everything is incremental: nvcc, the translation of each kernel and each compilation are redone only when what
they depend on has changed.
"""

import ast
import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .translator import translate

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FOLDER = ROOT / "build/ptx_on_cpu"
ARCHITECTURES = ("compute_80", "compute_90", "compute_100")
# Exact arithmetic as written; a GPU fuses multiply and add only where the PTX says fma.
_HIDE_ALL = f"-Wl,--version-script={HERE / 'hide_all.map'}"
COMPILE = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", f"-I{HERE}"]


@dataclass(frozen=True)
class Built:
    """The libraries, in the order in which they are to be loaded."""

    runtime: Path  # the stand-in for libcudart
    torch_memory: Path
    extension: Path  # bindings, launchers and translated kernels


class Plan:
    """A ninja file in the making."""

    def __init__(self) -> None:
        self.lines = [
            f"builddir = {FOLDER}",
            "rule compile",
            "  command = $compiler -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $name",
            "rule link",
            "  command = $compiler -shared $in $flags -o $out",
            "  description = link $name",
            f"compiler = {os.environ.get('CXX', 'c++')}",
        ]

    def compile(self, source: Path, target: Path, flags: list[str]) -> Path:
        self._edge("compile", target, [source], flags, source.stem)
        return target

    def link(self, target: Path, inputs: list[Path], flags: list[str]) -> Path:
        self._edge("link", target, inputs, flags, target.name)
        return target

    def _edge(self, rule: str, target: Path, inputs: list[Path], flags: list[str], name: str) -> None:
        paths = " ".join(str(path).replace(" ", "$ ") for path in inputs)
        self.lines += [f"build {target}: {rule} {paths}", f"  flags = {' '.join(flags)}", f"  name = {name}"]

    def run(self, name: str) -> None:
        path = FOLDER / f"{name}.ninja"
        path.write_text("\n".join([*self.lines, ""]))
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        subprocess.run([sys.executable, "-m", "ninja", "-f", path, *jobs], check=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time: several test processes may start together."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _machine_flags() -> list[str]:
    """Instructions that make fma and 16-bit conversions fast where this CPU has them; results are the same."""
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    have = found[1].split() if found else []
    return [flag for flag, name in (("-mfma", "fma"), ("-mf16c", "f16c")) if name in have]


def _tables() -> dict[str, list[str]]:
    """The source lists of setup.py, by name."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.isupper()
        and isinstance(node.value, ast.List)
        and all(isinstance(item, ast.Constant) for item in node.value.elts)
    }


def write_if_changed(path: Path, text: str) -> None:
    """Leaves an equal file alone, and with it whatever was made of it."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def translate_file(ptx: Path, folder: Path) -> list[Path]:
    """The C++ files of the kernels in one PTX file, one a kernel."""
    paths = []
    for name, text in translate(ptx.read_text(), ptx.name).items():
        readable = re.sub(r"\W", "", name)[:60]
        path = folder / f"{readable}_{hashlib.sha1(name.encode()).hexdigest()[:10]}.cpp"
        write_if_changed(path, text)
        paths.append(path)
    return paths


def plan_runtime(plan: Plan, toolkit: Path) -> Path:
    """The runtime and the stand-in, as libcudart.so.13."""
    sources = [*(HERE / "runtime").glob("*.cpp"), *(HERE / "cudart").glob("*.cpp")]
    objects = [
        plan.compile(source, FOLDER / "runtime" / f"{source.parent.name}_{source.stem}.o",
                     [*COMPILE, "-O2", "-Wall", "-Wextra", f"-I{toolkit / 'include'}"])
        for source in sorted(sources) if source.stem != "torch_memory"
    ]  # fmt: skip
    exports = f"-Wl,--version-script={HERE / 'cudart/libcudart.map'}"
    return plan.link(FOLDER / "libcudart.so.13", objects, ["-Wl,-soname,libcudart.so.13", exports])


def plan_kernels(plan: Plan, sources: list[Path], folder: Path) -> list[Path]:
    """Objects of translated kernels."""
    flags = [*COMPILE, *_machine_flags(), "-O1", "-w", "-fvisibility=hidden"]
    return [plan.compile(source, folder / f"{source.stem}.o", flags) for source in sources]


def _plan_torch_memory(plan: Plan, runtime: Path) -> Path:
    from torch.utils.cpp_extension import include_paths, library_paths

    system = [f"-isystem{path}" for path in include_paths()]
    source = HERE / "cudart/torch_memory.cpp"
    built = plan.compile(source, FOLDER / "runtime/torch_memory.o", [*COMPILE, "-O2", "-fvisibility=hidden", *system])
    libraries = [f"-L{library_paths()[0]}", "-lc10", f"-Wl,-rpath,{FOLDER}"]
    return plan.link(FOLDER / "libtorch_memory.so", [built, runtime], libraries)


def _plan_bindings(plan: Plan, sources: list[str], toolkit: Path, targets: str) -> list[Path]:
    from torch.utils.cpp_extension import include_paths

    flags = [*COMPILE, "-O2", "-w", "-fvisibility=hidden", "-DMTP_EXT_CUDA_KEY=CPU"]
    flags += [shlex.quote(f'-DMTP_EXT_CUDA_TARGETS="{targets}"')]  # as setup.py says it
    flags += [f"-isystem{path}" for path in [*include_paths(), toolkit / "include"]]
    return [plan.compile(ROOT / source, FOLDER / "bindings" / f"{Path(source).stem}.o", flags) for source in sources]


def _ptx_of(folder: Path, architecture: str) -> Path:
    """The PTX file for this virtual architecture among what nvcc kept."""
    target = f".target {architecture.replace('compute_', 'sm_')}"
    for path in sorted(folder.glob("*.ptx")):
        if re.search(rf"^{re.escape(target)}\b", path.read_text(), re.MULTILINE):
            return path
    raise FileNotFoundError(f"{folder} holds no PTX with '{target}'; was TORCH_CUDA_ARCH_LIST narrowed?")


def find_toolkit() -> tuple[Path, Path]:
    """nvcc, and the folder of its headers."""
    sys.path.insert(0, str(ROOT))
    import build_cuda

    nvcc = build_cuda.find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("ptx_on_cpu needs nvcc: there is none in CUDA_HOME or on the path")
    return nvcc, build_cuda.toolkit(nvcc)


def build(architecture: str) -> Built:
    """Builds the CUDA library for one virtual architecture, such as compute_80. Needs nvcc."""
    from torch.utils.cpp_extension import library_paths

    with chdir(ROOT), _alone():
        nvcc, toolkit = find_toolkit()
        import build_cuda

        tables = _tables()
        launchers = [ROOT / path for path in build_cuda.compile_objects(nvcc, tables["CUDA_KERNELS"])]
        plan = Plan()
        runtime = plan_runtime(plan, toolkit)
        torch_memory = _plan_torch_memory(plan, runtime)
        translated: list[Path] = []
        for launcher in launchers:
            translated += translate_file(_ptx_of(launcher.with_suffix(""), architecture), FOLDER / architecture)
        objects = [
            *_plan_bindings(plan, tables["CUDA_SOURCES"], toolkit, build_cuda.describe(build_cuda.targets())),
            *launchers,
            *plan_kernels(plan, translated, FOLDER / architecture),
        ]
        libraries = [f"-L{library_paths()[0]}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{FOLDER}", _HIDE_ALL]
        extension = plan.link(FOLDER / architecture / "_cuda_on_cpu.so", [*objects, runtime], libraries)
        plan.run(architecture)
    return Built(runtime, torch_memory, extension)


def build_sample(source: Path) -> Built:
    """The same for one file of the runner's own tests: PTX, or CUDA with launchers that are extern "C"."""
    folder = FOLDER / "samples" / source.stem
    with chdir(ROOT), _alone():
        nvcc, toolkit = find_toolkit()
        plan = Plan()
        runtime = plan_runtime(plan, toolkit)
        torch_memory = _plan_torch_memory(plan, runtime)
        ptx, launcher = source, folder / "launchers.o"
        if source.suffix == ".cu":
            ptx = folder / f"{source.stem}.ptx"
            _compile_sample(nvcc, source, launcher)
        objects = plan_kernels(plan, translate_file(ptx, folder), folder)
        objects += [launcher] if source.suffix == ".cu" else []
        extension = plan.link(folder / "sample.so", [*objects, runtime], [f"-Wl,-rpath,{FOLDER}"])
        plan.run(f"sample_{source.stem}")
    return Built(runtime, torch_memory, extension)


def _compile_sample(nvcc: Path, source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-arch=compute_80", "-lineinfo", "-Xcompiler", "-fPIC"]
    subprocess.run([nvcc, *flags, "--keep", "--keep-dir", target.parent, "-c", source, "-o", target], check=True)


if __name__ == "__main__":
    for each in sys.argv[1:] or ARCHITECTURES:
        print(f"ptx_on_cpu: building for {each}", flush=True)
        build(each)
