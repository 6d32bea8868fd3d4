"""Sectors of global memory and wavefronts of shared memory, of accesses whose cost is known."""

from pathlib import Path

import pytest
import torch

from tests.ptx_on_cpu.sample import Sample, load_sample


@pytest.fixture(scope="module")
def traffic() -> Sample:
    return load_sample(Path(__file__).parent / "samples/traffic.cu")


def count(traffic: Sample, kernel: str) -> dict[str, dict]:
    """By opcode, as ld.shared."""
    traffic.control.count(True)
    faults = traffic.run(kernel, torch.zeros(4096), torch.zeros(4096), grid=1)
    rows = traffic.control.take_counts()
    traffic.control.count(False)
    assert faults == ""
    assert all(row["kernel"] == kernel and row["source"].startswith("traffic.cu:") for row in rows)
    return {".".join(row["instruction"].split()[0].split(".")[:2]): row for row in rows}


@pytest.mark.parametrize(("kernel", "sectors", "ideal"), [("coalesced", 4, 4), ("strided", 32, 4), ("vectors", 16, 16)])
def test_sectors_of_a_load(traffic: Sample, kernel: str, sectors: int, ideal: int) -> None:
    row = count(traffic, kernel)["ld.global"]
    assert (row["memory"], row["requests"], row["transactions"], row["ideal"]) == ("global", 1, sectors, ideal)


@pytest.mark.parametrize(("kernel", "wavefronts"), [("no_conflict", 1), ("two_ways", 2), ("all_ways", 32)])
def test_bank_conflicts(traffic: Sample, kernel: str, wavefronts: int) -> None:
    rows = count(traffic, kernel)
    for opcode in ("st.shared", "ld.shared"):
        row = rows[opcode]
        assert (row["memory"], row["requests"], row["transactions"], row["ideal"]) == ("shared", 1, wavefronts, 1)


@pytest.mark.parametrize(("kernel", "wavefronts"), [("rows_of_128_bytes", 32), ("rows_of_144_bytes", 4)])
def test_bank_conflicts_of_wide_accesses(traffic: Sample, kernel: str, wavefronts: int) -> None:
    row = count(traffic, kernel)["st.shared"]
    assert (row["transactions"], row["ideal"]) == (wavefronts, 4)  # a quarter of the warp at a time


def test_words_that_all_lanes_read_are_no_conflict(traffic: Sample) -> None:
    row = count(traffic, "broadcast")["ld.shared"]
    assert (row["bytes"], row["requests"], row["transactions"], row["ideal"]) == (8, 1, 2, 2)  # half a warp at a time
