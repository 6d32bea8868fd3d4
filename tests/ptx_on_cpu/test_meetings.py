"""Shuffles, votes, barriers, atomics, widths of memory access and cp.async, against plain Python, in every schedule."""

import pytest
import torch

from tests.ptx_on_cpu.sample import Sample

SCHEDULES = pytest.mark.parametrize("schedule", ["in-order", "reverse", "random:1", "random:2"])
MASK = (1 << 32) - 1


def run(sample: Sample, kernel: str, given: torch.Tensor, out: torch.Tensor, schedule: str, block: int = 32) -> list:
    """The kernel's results, which had no fault."""
    assert sample.run(kernel, given, out, block=block, schedule=schedule) == ""
    return out.tolist()


def numbers(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


@SCHEDULES
def test_shuffles(meetings: Sample, schedule: str) -> None:
    out = run(meetings, "shuffles", numbers(32), numbers(128), schedule)
    lanes = range(32)
    assert out[:32] == [i // 8 * 8 + 3 for i in lanes]
    assert out[32:64] == [i - 3 if i % 8 >= 3 else i for i in lanes]
    assert out[64:96] == [i + 3 if i % 8 < 5 else i for i in lanes]
    assert out[96:] == [i ^ 5 for i in lanes]


@SCHEDULES
def test_votes(meetings: Sample, schedule: str) -> None:
    out = [x & MASK for x in run(meetings, "votes", numbers(32), numbers(160), schedule)]
    low, high = range(20), range(20, 32)
    for i in range(32):
        group = low if i in low else high
        mask = sum(1 << j for j in group)
        assert out[i] == sum(1 << j for j in group if j % 3 == 0)
        assert out[32 + i] == (5 in group)
        assert out[64 + i] == all(j >= 20 for j in group)
        assert out[96 + i] == sum(1 << j for j in group if j % 4 == i % 4)
        assert out[128 + i] == mask + 1


@SCHEDULES
def test_reductions(meetings: Sample, schedule: str) -> None:
    out = run(meetings, "reductions", numbers(32), numbers(128), schedule)
    assert out == [496] * 32 + [-31] * 32 + [31] * 32 + [0] * 32


@SCHEDULES
def test_barriers_that_count(meetings: Sample, schedule: str) -> None:
    assert run(meetings, "barriers", numbers(64), numbers(192), schedule, block=64) == [22] * 64 + [1] * 128


@SCHEDULES
def test_named_barriers(meetings: Sample, schedule: str) -> None:
    out = run(meetings, "producer", numbers(32), numbers(96), schedule, block=64)
    assert out == [31 - lane + turn for turn in range(3) for lane in range(32)]


@SCHEDULES
def test_atomics(meetings: Sample, schedule: str) -> None:
    out = torch.zeros(12, dtype=torch.int32)
    out[3] = -1
    assert meetings.run("atomics", numbers(64), out, block=64, schedule=schedule) == ""
    assert out.tolist()[:9] == [2016, -63, 63, ~0xFF, 0xFF, 0, 64 % 41, 7, 8]
    assert out.view(torch.float32)[9] == 32.0
    assert out.tolist()[10:] == [2016, 63]


@SCHEDULES
def test_widths(meetings: Sample, schedule: str) -> None:
    given = torch.arange(512).mul(37).to(torch.uint8)
    out = torch.zeros_like(given)
    run(meetings, "widths", given, out, schedule)
    expected = given.view(32, 16).flip(0).clone()
    expected[:, 15] = (expected[:, 15].view(torch.int8) >> 1).view(torch.uint8)
    assert out.view(32, 16).equal(expected)


@SCHEDULES
def test_local_memory_and_tables(meetings: Sample, schedule: str) -> None:
    out = run(meetings, "tables", numbers(32), numbers(32), schedule)
    assert out == [2 * ((i + 1) % 8) + 2 * (i % 8) + i + (i % 8) ** 2 for i in range(32)]


@SCHEDULES
def test_partial_copies(meetings: Sample, schedule: str) -> None:
    given = torch.arange(512).to(torch.uint8)
    out = torch.full_like(given, 9)
    run(meetings, "copies", given, out, schedule)
    kept = torch.tensor([16, 4, 0])[torch.arange(32) % 3]
    assert out.view(32, 16).equal(torch.where(torch.arange(16) < kept[:, None], given.view(32, 16), 0))


@SCHEDULES
def test_an_index_into_a_parameter(meetings: Sample, schedule: str) -> None:
    out = numbers(32)
    table = [3, 1, 4, 1, 5, 9, 2, 6]
    assert meetings.run("parameters", numbers(32), out, *table, schedule=schedule) == ""
    assert out.tolist() == [table[i % 8] + 6 for i in range(32)]


def test_a_variable_of_the_module_that_a_kernel_changes_is_refused(meetings: Sample) -> None:
    assert "unsupported: a kernel writes to the variable" in meetings.run("count_launches", numbers(32), numbers(32))
