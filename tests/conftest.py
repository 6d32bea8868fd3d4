"""What all tests share: the devices they run on, how hypothesis draws, and one thread each.

Two processes of one thread each run the suite in half the time of one with two: its calls are small. A law about
threads sets their number itself (`mtp_ext.testing.threads`).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, here and in the processes that tests start
sys.path.append(str(Path(__file__).parents[1]))  # for `tests.*`; last, so that an installed mtp_ext is what is tested

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


@pytest.fixture
def stand_in(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The runner that executes CUDA kernels on a CPU (tests/ptx_on_cpu/control.py): it knows what was launched and what
    accesses cost, and can be another device."""
    plugin = request.config.pluginmanager.get_plugin("tests.ptx_on_cpu.plugin")
    if plugin is None:
        pytest.skip("asks the runner of tests/ptx_on_cpu")
    control = plugin.control_of(request.config)
    yield control
    control.count(False)
    control.choose_device(request.config.getoption("--ptx-arch"))
