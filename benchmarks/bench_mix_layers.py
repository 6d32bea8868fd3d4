"""Mixtures of a model's layers against eager PyTorch, which stacks them: alone, and with their gradients."""

from collections.abc import Callable

import jobs
import pytest
from cases import MIX_SHAPES, Case, over


@pytest.mark.benchmark(group="speed")
@over(MIX_SHAPES)
def test_mix_layers(compare: Callable[..., None], case: Case) -> None:
    job = jobs.mix_layers(case)
    compare(case, job, {"eager": job.eager})


@pytest.mark.benchmark(group="speed")
@over(MIX_SHAPES)
def test_mix_layers_training(compare: Callable[..., None], case: Case) -> None:
    job = jobs.mix_layers_training(case)
    compare(case, job, {"eager": job.eager})
