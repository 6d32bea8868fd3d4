"""The report as Markdown: occupancy, memory accesses and floors."""

from collections.abc import Iterable, Mapping

from report import table  # of the benchmarks

from ..cuda_budget.budget import Budget, BudgetFile
from ..cuda_budget.occupancy import LIMITS
from .counting import Counted, Traffic
from .gpus import GPUS
from .kernels import OPS, Op, benchmark
from .work import Shape, WorkOf

LAUNCH = 2e-6  # seconds
SIZES = {"float32": 4, "bfloat16": 2}  # bytes


_HEAD = """\
Nothing here was measured: no GPU was at hand. Floors follow from shapes and data sheets, occupancy from the machine
code of nvcc {nvcc} (tests/cuda_budget/budget.toml), memory accesses from executing its PTX on a CPU."""
_GPUS = """\
By their data sheets. 16-bit products are dense ones; H100 and B200 reach that rate by instructions that these kernels
do not use (they have mma.sync). Exponentials: 16 a clock and SM."""
_OCCUPANCY = """\
Registers and shared memory are the most over the three architectures, shared memory with the most that a launch asks
for."""
_ACCESSES = """\
Counted on small cases, whose numbers are those of the floors below. A request is one instruction of one warp. It takes
sectors of 32 bytes of global memory, at least as many as its distinct bytes fill. Bytes / floor: all sectors against
the bytes that the kernel cannot do without; what it reads twice comes from a cache on cases as small as these. Each
wavefront of shared memory beyond the least is a bank conflict."""
_FLOORS = """\
Microseconds that a kernel takes at least: its bytes, each once, over the bandwidth, or its operations over their rate,
whichever is more. Without a word: memory; exp: exponentials; matrix: tensor cores; fp32: multiply-adds. A launch takes
2 to 3 microseconds beside it. What the L2 cache holds (40, 50 and 126 MB) may come faster."""


def _case(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _ratio(number: int, of: int) -> str:
    return f"{number / of:.2f}" if of else ""


def gpus() -> str:
    """Their rates."""
    rows = [
        [
            gpu.name,
            f"{gpu.bytes / 1e12:.2f}",
            f"{gpu.operations / 1e12:.1f}",
            f"{gpu.matrix_operations / 1e12:.0f}",
            f"{gpu.exponentials / 1e12:.2f}",
        ]
        for gpu in GPUS
    ]
    header = ["GPU", "memory, TB/s", "float32, TFLOP/s", "16-bit products, TFLOP/s", "exponentials, 10^12/s"]
    return table(header, rows)


def occupancy(budget: BudgetFile) -> str:
    """Of every kernel, from budget.toml."""
    architectures = [gpu.architecture for gpu in GPUS]

    def row(name: str, kernel: Budget) -> list[str]:
        rows = [kernel.rows[architecture] for architecture in architectures]
        warps = [row["blocks"] * kernel.threads // 32 for row in rows]
        shares = [f"{100 * w // LIMITS[sm].warps} %" for w, sm in zip(warps, architectures, strict=True)]
        registers = max(row["registers"] for row in rows)
        shared = (max(row["shared"] for row in rows) + kernel.dynamic_shared) / 1024
        blocks = [str(row["blocks"]) for row in rows]
        return [name, str(kernel.threads), str(registers), f"{shared:.1f}", ", ".join(blocks), ", ".join(shares)]

    names = ", ".join(gpu.name.split()[0] for gpu in GPUS)
    header = ["kernel", "threads", "registers", "shared, KiB", f"blocks an SM: {names}", "of the warps it can hold"]
    return table(header, [row(name, kernel) for name, kernel in budget.kernels.items()])


def accesses(counts: Iterable[Counted]) -> str:
    """A row a kernel and case."""

    def cost(traffic: Traffic) -> list[str]:
        return [str(traffic.requests), _ratio(traffic.transactions, traffic.requests)]

    rows: list[list[str]] = []
    for counted in counts:
        work = OPS[counted.op].kernels[counted.kernel.partition("<")[0]](counted.shape, SIZES[counted.dtype])
        shared, requests = counted.in_shared, counted.in_global.requests
        conflicts = shared.transactions - shared.ideal
        row = [
            counted.kernel,
            _case(counted.shape),
            *cost(counted.in_global),
            _ratio(counted.in_global.ideal, requests),
            _ratio(counted.bytes, work.bytes),
            *([str(shared.requests), _ratio(conflicts, shared.requests)] if shared.requests else ["", ""]),
        ]
        if work.bytes and row not in rows:  # kernels without a dtype are counted for each
            rows.append(row)
    header = ["kernel", "case", "global requests", "sectors each", "at least", "bytes / floor"]
    header += ["shared requests", "conflicts each"]
    return table(header, rows)


def floors(op: Op, work_of: WorkOf) -> str:
    """Of one kernel at the benchmarks' cases; a sentence where none of them takes long."""
    works = [work_of(shape, SIZES[dtype]) for shape in op.cases for dtype in benchmark.DTYPES]
    longest = max(gpu.floor(work)[0] for gpu in GPUS for work in works)
    if longest < LAUNCH / 2:
        megabytes = max(work.bytes for work in works) / 1e6
        return f"At most {megabytes:.2f} MB and {longest * 1e6:.2f} us in all cases: the launch takes longer."
    rows = []
    for shape in op.cases:
        row = [_case(shape)]
        for dtype in benchmark.DTYPES:
            work = work_of(shape, SIZES[dtype])
            row.append(f"{work.bytes / 1e6:.2f}")
            for gpu in GPUS:
                seconds, limit = gpu.floor(work)
                row.append(f"{seconds * 1e6:.2f}" + ("" if limit == "memory" else f" {limit}"))
        rows.append(row)
    names = [gpu.name.split()[0] for gpu in GPUS]
    header = ["case"] + [column for dtype in benchmark.DTYPES for column in [f"{dtype}, MB", *names]]
    return table(header, rows)


def report(nvcc: str, budget: BudgetFile, counts: Mapping[str, list[Counted]]) -> str:
    """All of it. `counts`: by op."""
    parts = [
        "# CUDA kernels, without a GPU",
        _HEAD.format(nvcc=nvcc),
        "## What the GPUs can do",
        gpus(),
        _GPUS,
        "## Occupancy",
        _OCCUPANCY,
        occupancy(budget),
        "## Memory accesses",
        _ACCESSES,
        accesses([counted for rows in counts.values() for counted in rows]),
        "## Floors",
        _FLOORS,
    ]
    for name, op in OPS.items():
        parts.append(f"### {name}\n\nCases: {op.axes}.")
        for kernel, work_of in op.kernels.items():
            what = " ".join((work_of.__doc__ or "").split())
            parts.append(f"**{kernel}**: {what}\n\n{floors(op, work_of)}")
    return "\n\n".join(parts) + "\n"
