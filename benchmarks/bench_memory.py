"""Memory beyond inputs and outputs: the peak of one call in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

_SCRIPT = Path(__file__).with_name("peak_memory.py")


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("op", jobs.JOBS)
def test_memory(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, op: str) -> None:
    options = ["--smallest"] if pytestconfig.getoption("--smallest") else []
    command = [sys.executable, str(_SCRIPT), op, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def measure() -> str:
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    lines = benchmark.pedantic(measure, rounds=1).splitlines()
    benchmark.extra_info["records"] = [json.loads(line) for line in lines]
