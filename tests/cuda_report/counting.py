"""What the memory accesses of each kernel cost, counted while its PTX is executed on the CPU."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..cuda_budget.machine_code import readable
from ..ptx_on_cpu.control import Control
from .kernels import OPS, Op, benchmark
from .work import Shape

SECTOR = 32  # bytes


@dataclass(frozen=True)
class Traffic:
    """Of one kind of memory: requests of a warp, and what they took and could have taken at least: sectors of 32 bytes
    of global memory, wavefronts of shared memory."""

    requests: int = 0
    transactions: int = 0
    ideal: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.requests + other.requests, self.transactions + other.transactions, self.ideal + other.ideal)


@dataclass(frozen=True)
class Counted:
    """One kernel, as mix_kernel<float, true>, on one small case."""

    kernel: str
    op: str
    shape: Shape
    dtype: str
    in_global: Traffic
    in_shared: Traffic

    @property
    def bytes(self) -> int:
        """That cross between the kernel and global memory, caches included."""
        return self.in_global.transactions * SECTOR


def count(control: Control, name: str) -> Iterable[Counted]:
    """Runs an op on its small cases."""
    op: Op = OPS[name]
    for shape in op.counted:
        for dtype in benchmark.DTYPES:
            call = op.start(benchmark.Case(shape, dtype, 1))
            control.count(True)
            control.take_counts()
            call()
            rows = control.take_counts()
            control.count(False)
            if faults := control.take_faults():
                raise RuntimeError(faults)
            for mangled in sorted({row["kernel"] for row in rows}):
                kernel = readable(mangled)
                if kernel.partition("<")[0] not in op.kernels:
                    continue
                traffic = {"global": Traffic(), "shared": Traffic()}
                for row in rows:
                    if row["kernel"] == mangled:
                        traffic[row["memory"]] += Traffic(row["requests"], row["transactions"], row["ideal"])
                yield Counted(kernel, name, shape, dtype, traffic["global"], traffic["shared"])
