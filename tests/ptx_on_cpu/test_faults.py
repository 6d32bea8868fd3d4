"""Every kind of fault, planted in a small kernel, is reported in every schedule; the correct kernel is silent."""

import re

import pytest
import torch

from tests.ptx_on_cpu.sample import Address, Sample

SCHEDULES = ("in-order", "reverse", "random:1", "random:2")

# Kernel of samples/planted.cu, what its report must say (a regular expression), blocks, threads a block.
PLANTED = [
    ("global_read", "out of bounds: 4 bytes", 1, 32),
    ("global_write", "out of bounds: 4 bytes", 1, 64),
    ("global_alignment", "misaligned access: 16 bytes", 1, 32),
    ("shared_bounds", "out of bounds: 4 bytes", 1, 32),
    ("shared_alignment", "misaligned access: 8 bytes", 1, 32),
    ("unwritten", "read of shared memory that nobody wrote", 1, 32),
    ("read_after_write", "race: ", 1, 64),
    ("write_after_read", "race: ", 1, 64),
    ("write_after_write", "race: write after write", 1, 64),
    ("warp_exchange", "race: ", 1, 32),
    ("global_exchange", "race: ", 1, 64),
    ("blocks_write", "race: write after write", 3, 32),
    ("blocks_read", "race: ", 3, 32),
    ("last_block", "race: ", 3, 32),
    ("divergent_barrier", "divergent barrier", 1, 64),
    ("starved_barrier", "deadlock: every thread waits", 1, 64),
    ("lane_mask", "bad lane mask", 1, 32),
    ("lane_mask_without_caller", "does not name the calling lane 0", 1, 32),
    ("async_wait", "cp.async read before its wait", 1, 32),
    ("async_barrier", "race: |cp.async read before its wait", 1, 32),
    ("constant_cache", "constant cache", 1, 64),
]
# Where threads wait for a lane or a thread that never comes, any of them may be the first to say so.
LATE = ("lane_mask", "lane_mask_without_caller")


def memory(name: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """`in`, `out` and `count`: out has exactly as many elements as kernels of bounds may touch."""
    exact = name.startswith(("global_read", "global_write"))
    given = torch.arange(32.0) if exact else torch.arange(256.0)
    return given, torch.zeros(32 if exact else 256), 32


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "report", "grid", "block"), PLANTED, ids=[row[0] for row in PLANTED])
def test_a_planted_bug_is_reported(
    planted: Sample, name: str, report: str, grid: int, block: int, schedule: str
) -> None:
    faults = planted.run(f"{name}_bug", *memory(name), grid=grid, block=block, schedule=schedule)
    if name in LATE:
        assert "bad lane mask" in faults or "deadlock" in faults
    else:
        assert re.search(report, faults)
    assert f"{name}_bug" in faults  # the kernel
    assert "planted.cu:" in faults  # the line of the source
    assert "thread (" in faults


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("name", "grid", "block"), [(n, g, b) for n, _, g, b in PLANTED], ids=[row[0] for row in PLANTED]
)
def test_the_correct_kernel_is_silent(planted: Sample, name: str, grid: int, block: int, schedule: str) -> None:
    assert planted.run(f"{name}_ok", *memory(name), grid=grid, block=block, schedule=schedule) == ""


def test_results_of_the_correct_kernels(planted: Sample) -> None:
    given, out, count = memory("read_after_write")
    planted.run("read_after_write_ok", given, out, count, block=64)
    assert out[:64].equal(given[:64].flip(0))
    out.zero_()
    planted.run("last_block_ok", given, out, count, grid=3, schedule="reverse")
    assert out[0] == given[:3].sum()
    planted.run("async_wait_ok", given, out, count)
    assert out[:32].equal(given[96:128].flip(0) + given[224:256].flip(0))


def test_a_freed_tensor_is_no_memory(planted: Sample) -> None:
    given, out = torch.arange(32.0), torch.zeros(32)
    address = given.data_ptr()
    del given
    faults = planted.run("global_read_ok", Address(address), out, 32)
    assert "out of bounds: 4 bytes" in faults
