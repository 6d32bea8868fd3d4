"""What three GPUs can do at best, by their makers' data sheets, and how long a kernel's work takes there at least."""

from dataclasses import dataclass

from .work import Work


@dataclass(frozen=True)
class Gpu:
    """Rates a second. Matrix products are dense ones in 16 bits, a multiply-add is two operations.

    Exponentials are not in the data sheets: 16 a clock and SM.
    """

    name: str
    architecture: str
    bytes: float
    operations: float
    matrix_operations: float
    exponentials: float

    def floor(self, work: Work) -> tuple[float, str]:
        """Seconds that the work takes at least, and what of it takes them."""
        times = {
            "memory": work.bytes / self.bytes,
            "exp": work.exponentials / self.exponentials,
            "fp32": work.operations / self.operations,
            "matrix": work.matrix_operations / self.matrix_operations,
        }
        limit = max(times, key=lambda name: times[name])
        return times[limit], limit


GPUS = (
    Gpu("A100 SXM, 80 GB", "sm_80", 2.039e12, 19.5e12, 312e12, 108 * 16 * 1.41e9),
    Gpu("H100 SXM", "sm_90", 3.35e12, 67e12, 989e12, 132 * 16 * 1.98e9),
    Gpu("B200", "sm_100", 8.0e12, 75e12, 2250e12, 148 * 16 * 1.98e9),
)
