"""What several tests ask of a result."""

from typing import Any

import pytest
import torch
from torch import Tensor

import mtp_ext
from mtp_ext.libraries import LIBRARIES
from mtp_ext.testing import BranchCase, error_budget, has_kernel, has_libraries

NOTHING_BUILT = "no library is built for this device: its ops run on the PyTorch reference"


def run(op: str, case: BranchCase, device: str, **options: Any) -> Any:
    """The public function `op` on `device`; its result comes back to the CPU."""
    options = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
    result = case.to(device).run(getattr(mtp_ext, op), **options)
    return result.cpu() if isinstance(result, Tensor) else type(result)(*[x.cpu() for x in result])


def require_kernel(op: str, device: str) -> None:
    """Skips what only kernels promise where no library is built; where one is, a missing kernel fails."""
    if not has_libraries(device):
        pytest.skip(NOTHING_BUILT)
    assert has_kernel(op, device), f"the {device} library has no kernel for {op}"


def built_libraries(device: str = "") -> list[Any]:
    """The compiled libraries (of one device), as parameters of a test, or one that skips it where there is none."""
    libraries = [library for library in LIBRARIES if library.path is not None and library.name.startswith(device)]
    built = [pytest.param(library, id=library.name) for library in libraries]
    return built or [pytest.param(None, marks=pytest.mark.skip(reason=NOTHING_BUILT))]


def assert_top(log_probs: Tensor, indices: Tensor, reference: Tensor, oracle: Tensor) -> None:
    """Fails unless these are the k most probable candidates of each row, in order, within the budget.

    Args:
        log_probs, indices: [rows, k], the result.
        reference, oracle: [rows, candidates], the log-probabilities of all in float32 and float64.
    """
    budget = error_budget(reference, oracle)
    for values, found, candidates in zip(log_probs, indices, oracle, strict=True):
        if candidates.isnan().any():
            assert values.isnan().all()
            assert (found == -1).all()
            continue
        count = min(len(values), int((candidates.float() > -torch.inf).sum()))
        assert (values[count:] == -torch.inf).all(), "a short row must end in -inf"
        assert (found[count:] == -1).all(), "a short row must end in -1"
        values, found = values[:count], found[:count]
        assert len(found.unique()) == count, "an index came twice"
        best = candidates.sort(descending=True).values[:count]
        assert_near(values, candidates[found], budget, "the value at its index")
        assert_near(values, best, budget, "the best value")
        assert (values[:-1] >= values[1:]).all(), "the most probable must come first"
        tied = values[:-1] == values[1:]
        assert (found[:-1] < found[1:])[tied].all(), "ties must go to the lower index"


def assert_near(actual: Tensor, expected: Tensor, budget: float, what: str) -> None:
    """Fails unless all of `actual` is within `budget` of the float64 `expected`."""
    if actual.numel() == 0:
        return
    worst = (actual.double() - expected).abs().max().item()
    assert worst <= budget, f"{what} is off by {worst:.3g}, more than the budget of {budget:.3g}"
