"""What all tests share: the devices they run on, how hypothesis draws, and one thread each.

Two processes of one thread each run the suite in half the time of one with two: its calls are small. A law about
threads sets their number itself (`mtp_ext.testing.threads`).
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, here and in the processes that tests start

import pytest
import torch
from hypothesis import settings

settings.register_profile("laws", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("laws")


@pytest.fixture(scope="session", params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device at hand: the laws hold on each of them."""
    return request.param


@pytest.fixture(scope="session")
def cuda_kernels(request: pytest.FixtureRequest) -> str:
    """Where tensors must be for CUDA kernels to work on them: on a GPU, or on a CPU that executes their PTX."""
    if request.config.pluginmanager.hasplugin("tests.ptx_on_cpu.plugin"):
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("nothing here runs CUDA kernels")
    return "cuda"
