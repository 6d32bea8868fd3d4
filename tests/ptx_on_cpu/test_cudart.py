"""The stand-in for libcudart: launches run, and what a driver would refuse is refused with its error."""

from collections.abc import Iterator

import pytest
import torch

from tests.ptx_on_cpu.sample import Address, Sample

SUCCESS, INVALID_VALUE, INVALID_CONFIGURATION, LAUNCH_FAILURE = 0, 1, 9, 719


@pytest.fixture(autouse=True)
def clean(launchers: Sample) -> Iterator[None]:
    launchers.control.choose_device("compute_80")
    launchers.control.take_faults()
    launchers.control.take_log()
    yield
    launchers.control.choose_device("compute_80")
    launchers.control.take_faults()


def test_a_launch_runs_with_its_arguments(launchers: Sample) -> None:
    out = torch.zeros(256)
    assert launchers.host("launch_fill", out, 2, 128) == SUCCESS
    assert out.eq(0.5).all()
    assert launchers.control.take_faults() == ""
    (line,) = launchers.control.take_log()
    assert "fill" in line
    assert line.endswith("grid=2,1,1 block=128,1,1 shared=0 stream=(nil)")


def test_the_log_shows_the_stream(launchers: Sample) -> None:
    assert launchers.host("launch_on_stream", torch.zeros(32), Address(0x51)) == SUCCESS
    assert launchers.control.take_log()[0].endswith("stream=0x51")


@pytest.mark.parametrize(("blocks", "threads", "error"), [
    (0, 32, INVALID_CONFIGURATION), (1, 0, INVALID_CONFIGURATION), (1, 1025, INVALID_CONFIGURATION),
    (1, 129, INVALID_VALUE),  # beyond __launch_bounds__
])  # fmt: skip
def test_refused_shapes(launchers: Sample, blocks: int, threads: int, error: int) -> None:
    assert launchers.host("launch_fill", torch.zeros(2048), blocks, threads) == error
    assert launchers.control.take_log() == []
    assert launchers.control.take_faults() == ""  # the host asked for the error, so it may deal with it


def test_an_error_that_nobody_asked_for_is_reported(launchers: Sample) -> None:
    assert launchers.host("launch_carelessly", torch.zeros(32), 0) == SUCCESS
    faults = launchers.control.take_faults()
    assert "never asked for with cudaGetLastError" in faults
    assert "cudaErrorInvalidConfiguration" in faults
    assert "grid 0,1,1" in faults


def test_a_fault_ends_the_context(launchers: Sample) -> None:
    assert launchers.host("launch_fill", torch.zeros(16), 1, 32) == LAUNCH_FAILURE
    assert launchers.host("launch_fill", torch.zeros(32), 1, 32) == LAUNCH_FAILURE
    assert "out of bounds" in launchers.control.take_faults()
    assert launchers.host("launch_fill", torch.zeros(32), 1, 32) == SUCCESS  # a new test, a new context


@pytest.mark.parametrize(("capability", "limit"), [("compute_80", 166912), ("compute_90", 232448)])
def test_shared_memory(launchers: Sample, capability: str, limit: int) -> None:
    launchers.control.choose_device(capability)
    assert launchers.host("compute_capability") == int(capability.removeprefix("compute_"))
    out, static = torch.zeros(32), 1024
    assert launchers.host("launch_shared", out, 48 * 1024 - static, 0) == SUCCESS
    assert out.eq(3).all()
    assert launchers.host("launch_shared", out, limit - static, 1) == SUCCESS
    assert launchers.host("launch_shared", out, limit - static + 1, 1) == INVALID_VALUE
    # The limit that was raised stays; a block fills the multiprocessor.
    assert launchers.host("occupancy", 32, limit - static) == 1


def test_more_than_48_kilobytes_need_the_attribute(launchers: Sample) -> None:
    assert launchers.host("launch_shared", torch.zeros(32), 1024, 1) == SUCCESS
    assert launchers.host("launch_shared", torch.zeros(32), 1025, 0) == INVALID_VALUE


def test_occupancy_counts_threads_and_shared_memory(launchers: Sample) -> None:
    launchers.host("launch_shared", torch.zeros(32), 100_000, 1)
    assert launchers.host("occupancy", 1024, 0) == 2
    assert launchers.host("occupancy", 32, 0) == 32
    assert launchers.host("occupancy", 32, 52_000) == 3
