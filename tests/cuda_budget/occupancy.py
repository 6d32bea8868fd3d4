"""How many blocks of a kernel a streaming multiprocessor (SM) can hold at a time: the CUDA programming guide's table
of compute capabilities, and the units in which an SM hands out registers and shared memory."""

from dataclasses import dataclass

from .machine_code import RESERVED_SHARED

_REGISTERS = 65536  # of an SM
_REGISTER_UNIT = 256  # of a warp
_SHARED_UNIT = 128  # bytes
_WARP_UNIT = 4  # warps: each of the SM's four parts has its share of the registers


@dataclass(frozen=True)
class Limits:
    """Of one SM: warps, blocks, bytes of shared memory."""

    warps: int
    blocks: int
    shared: int


LIMITS = {
    "sm_80": Limits(64, 32, 164 << 10),
    "sm_86": Limits(48, 16, 100 << 10),
    "sm_89": Limits(48, 24, 100 << 10),
    "sm_90": Limits(64, 32, 228 << 10),
    "sm_100": Limits(64, 32, 228 << 10),
    "sm_120": Limits(48, 24, 100 << 10),
}


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def blocks_per_sm(architecture: str, *, threads: int, registers: int, shared: int) -> int:
    """Blocks of so many threads, registers a thread and bytes of shared memory, declared and dynamic."""
    limits = LIMITS[architecture]
    warps = -(-threads // 32)
    registers_of_warp = _round_up(registers * 32, _REGISTER_UNIT)
    warps_by_registers = _REGISTERS // registers_of_warp // _WARP_UNIT * _WARP_UNIT
    return min(
        limits.blocks,
        limits.warps // warps,
        warps_by_registers // warps,
        limits.shared // _round_up(shared + RESERVED_SHARED, _SHARED_UNIT),
    )
