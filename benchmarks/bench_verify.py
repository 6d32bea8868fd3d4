"""Verification against eager PyTorch, and `commit_` against one copy of as many bytes and the call alone."""

from collections.abc import Callable

import jobs
import pytest
import torch
from cases import COMMIT_SHAPES, VERIFY_SHAPES, Case, over
from verification import Commit, Verification


@pytest.mark.benchmark(group="speed")
@over(VERIFY_SHAPES)
def test_verify_greedy(compare: Callable[..., None], case: Case) -> None:
    job = jobs.verify_greedy(case)
    compare(case, job, {"eager": job.eager})


@pytest.mark.benchmark(group="speed")
@over(VERIFY_SHAPES)
def test_verify_sampling(compare: Callable[..., None], case: Case) -> None:
    job = jobs.verify_sampling(case)
    work = Verification.of(case)
    visited = {"eager, visited nodes": lambda: work.eager_sampling_of_visited(jobs.VERIFY_TOP_P)}
    compare(case, job, {"eager": job.eager, **visited})


@pytest.mark.benchmark(group="speed")
@over(COMMIT_SHAPES)
def test_commit(compare: Callable[..., None], case: Case) -> None:
    job = jobs.commit_(case)
    work = Commit.of(case)
    source = work.moved()
    target = torch.empty_like(source)
    rivals = {"eager": job.eager, "copy": lambda: target.copy_(source), "nothing to move": work.nothing}
    compare(case, job, rivals)
