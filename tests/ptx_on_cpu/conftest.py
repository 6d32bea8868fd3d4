"""The runner's own tests: the stand-in for libcudart is loaded once for all of them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import build_cuda  # noqa: E402
from tests.ptx_on_cpu.sample import Sample, load_sample  # noqa: E402

SAMPLES = Path(__file__).parent / "samples"

if build_cuda.find_nvcc() is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def planted() -> Sample:
    """Small kernels, each correct and with a bug."""
    return load_sample(SAMPLES / "planted.cu")


@pytest.fixture(scope="session")
def meetings() -> Sample:
    """Instructions at which threads meet, and memory instructions."""
    return load_sample(SAMPLES / "meetings.cu")


@pytest.fixture(scope="session")
def matrices() -> Sample:
    """Tiles through ldmatrix and mma."""
    return load_sample(SAMPLES / "matrices.cu")


@pytest.fixture(scope="session")
def launchers() -> Sample:
    """Host code that launches kernels, rightly and wrongly."""
    return load_sample(SAMPLES / "launchers.cu")
