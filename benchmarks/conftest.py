"""The fixture `compare`: one op on one case, ours against rivals, into pytest-benchmark's JSON."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import ceilings
import pytest
import torch
import vllm_cpu
from cases import Case
from jobs import Job, assert_agree
from pytest_benchmark.fixture import BenchmarkFixture
from round_robin import Call, Rivals, seconds
from torch import Tensor

import mtp_ext
from mtp_ext import libraries
from mtp_ext.testing import threads

SECONDS_A_CASE = 4.0
ROUNDS = (5, 101)  # at least, at most
LOAD_BEFORE = os.getloadavg()[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--smallest", action="store_true", help="the smallest case of each benchmark, one round")
    parser.addoption("--vllm-library", metavar="PATH", help="vLLM's CPU library, where vLLM itself is not installed")


def pytest_configure(config: pytest.Config) -> None:
    library = config.getoption("--vllm-library")
    if library is not None and not Path(library).is_file():
        raise pytest.UsageError(f"--vllm-library must be a file, got {library}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --smallest, keeps the first case of each function."""
    if config.getoption("--smallest"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
        items[:] = [item for item in items if item in first.values()]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the report says about the machine and the software under test."""
    machine_info["load"] = LOAD_BEFORE
    machine_info["cpus"] = os.cpu_count()
    machine_info["torch"] = torch.__version__
    machine_info["mtp_ext"] = mtp_ext.__version__
    machine_info["capability"] = torch.backends.cpu.get_cpu_capability()
    loaded = [library.name for library in libraries.LIBRARIES if library.loaded]
    machine_info["libraries"] = ", ".join(loaded) or "no library loaded: the reference"
    library = vllm_cpu.find_library(config.getoption("--vllm-library"))
    machine_info["vllm"] = None if library is None else library.name


@pytest.fixture(scope="session")
def vllm(pytestconfig: pytest.Config) -> Path | None:
    """vLLM's library, where there is one."""
    return vllm_cpu.find_library(pytestconfig.getoption("--vllm-library"))


@pytest.fixture
def compare(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Callable[..., None]:
    def run(
        case: Case,
        job: Job,
        rivals: Mapping[str, Call],
        *,
        loops: int = 1,
        compiled: Mapping[str, Call] = MappingProxyType({}),
        time_limit: float = SECONDS_A_CASE,
    ) -> None:
        """Times job.ours, `loops` calls at a time, in turn with the rivals and the `compiled` ones."""
        info: dict[str, Any] = {"op": job.op, **asdict(case)}
        with threads(case.threads), torch.inference_mode():
            calls = {**rivals, **compiled}
            if compiled:
                torch.compiler.reset()  # compiled code is for one shape and one number of threads
                start = perf_counter()
                for call in compiled.values():
                    call()
                info["compile_seconds"] = perf_counter() - start
            expected = job.summary(job.eager())
            for call in [job.ours, *compiled.values()]:
                assert_agree(job.summary(call()), expected)
            ours = _repeat(job.ours, loops)
            turns = Rivals({name: _repeat(call, loops) for name, call in calls.items()}, ours)
            if pytestconfig.getoption("--smallest"):
                rounds = 1
            else:
                a_round = 2 * sum(seconds(call) for call in [job.ours, *calls.values()]) * loops
                rounds = int(min(max(time_limit / a_round, ROUNDS[0]), ROUNDS[1]))
            benchmark.pedantic(ours, setup=turns.run, rounds=rounds)
            info["bytes"] = sum(_bytes(job.inputs)) + sum(_bytes(job.ours()))
        assert benchmark.stats is not None, "these benchmarks cannot run with --benchmark-disable"
        all_seconds = {"ours": benchmark.stats["median"], **turns.medians()}
        info["seconds"] = {name: time / loops for name, time in all_seconds.items()}
        info["exponentials"] = job.exponentials
        info["operations"] = job.operations
        info["ceilings"] = asdict(ceilings.measure(case.threads))
        benchmark.extra_info["records"] = [info]

    return run


def _repeat(call: Call, loops: int) -> Call:
    def repeated() -> None:
        for _ in range(loops):
            call()

    return repeated if loops > 1 else call


def _bytes(tensors: Tensor | Iterable[Tensor]) -> list[int]:
    return [tensor.nbytes for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
