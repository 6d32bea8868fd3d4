"""`linear_marginalize` over a vocabulary that two processes share by gloo, against one process that has all of it, one
thread each."""

import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import pytest
import torch
from cases import HIDDEN_SHAPES
from pytest_benchmark.fixture import BenchmarkFixture
from torch import distributed
from torch.multiprocessing.spawn import spawn

import mtp_ext

ROUNDS = 3


def _seconds(rank: int, world: int, shape: tuple[int, int, int], rounds: int, folder: str) -> None:
    """Writes the seconds of each round; all processes start a round together."""
    torch.set_num_threads(1)
    branches, width, vocab = shape
    group = None
    if world > 1:
        distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
        group = distributed.group.WORLD
    torch.manual_seed(rank)
    hidden = torch.ones(1, branches, width).cumsum(1).remainder(7.0).sub(3.0)  # the same on all ranks
    unembedding = torch.randn(vocab // world, width).mul_(width**-0.5)
    weights = torch.zeros(1, branches)
    times = []
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first is not counted
            if group is not None:
                distributed.barrier(group)
            start = perf_counter()
            mtp_ext.linear_marginalize(hidden, unembedding, weights, group=group)
            times.append(perf_counter() - start)
    if rank == 0:
        torch.save(times[1:], f"{folder}/seconds")
    if group is not None:
        distributed.destroy_process_group()


@pytest.mark.benchmark(group="speed")
@pytest.mark.parametrize("shape", HIDDEN_SHAPES, ids=str)
def test_two_processes(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, shape: tuple[int, int, int]) -> None:
    rounds = 1 if pytestconfig.getoption("--smallest") else ROUNDS
    seconds: dict[int, list[float]] = {1: [], 2: []}

    def turn() -> None:
        for world, times in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                spawn(_seconds, (world, shape, rounds, folder), nprocs=world)
                times += torch.load(Path(folder) / "seconds")

    benchmark.pedantic(turn, rounds=1)
    median = {world: statistics.median(times) for world, times in seconds.items()}
    benchmark.extra_info["linear_sharded"] = {"shape": shape, "seconds": median}
    print(f"\n{shape}: one process {median[1]:.3f} s, two {median[2]:.3f} s: {median[1] / median[2]:.2f} times as fast")
