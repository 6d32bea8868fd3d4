"""Each compiled instruction set by itself: a process that is told to use it loads it, and its results obey the laws."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from instruction_sets import INSTRUCTION_SETS, assert_laws_hold, instruction_set_of
from laws import assert_near, assert_top, built_libraries
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.libraries import LIBRARIES, Library
from mtp_ext.testing import (
    BranchCase,
    assert_same_non_finite,
    assert_within_budget,
    dense_case,
    error_budget,
    peaked_logits,
    ragged_case,
)

SELECTION = {"top_p": 0.9, "max_branches": 100}
Results = dict[str, tuple[torch.Tensor, ...]]


def cases() -> dict[str, BranchCase]:
    """Sizes that end within a register of any width, values that leave the ordinary path."""
    spoiled = dense_case(4, 3, 1031, seed=1)
    spoiled.logits[0, 0, 5:] = -torch.inf
    spoiled.logits[1, 1, 1030] = torch.nan
    spoiled.log_probs[2, 2] = -torch.inf
    spoiled.logits[3] *= 1e3
    return {
        "float32": dense_case(2, 9, 8209),
        "bfloat16": dense_case(2, 9, 8209, dtype=torch.bfloat16),
        "float16": dense_case(2, 9, 8209, dtype=torch.float16),
        "subnormal": BranchCase((peaked_logits(1, 2, 517, seed=2) * 1e-6).half(), torch.zeros(1, 2)),
        "ragged": ragged_case([3, 0, 300, 1], 1031),
        "spoiled": spoiled,
        "narrow": dense_case(3, 4, 3),
        "huge": BranchCase(peaked_logits(1, 4, 1031, seed=3) * 1e28, torch.zeros(1, 4)),
    }


def options_of(case: BranchCase) -> dict[str, dict[str, Any]]:
    """The ops that take branches, with the options to call them with."""
    k = min(7, case.vocab)
    targets = torch.full((case.rows,), case.vocab - 1)
    return {
        "marginalize": {},
        "marginalize_topk": {"k": k},
        "marginalize_targets": {"targets": targets},
        "joint_topk": {"k": k},
    }


def compute(inputs: dict[str, BranchCase]) -> Results:
    """What this process makes of every op and case."""
    results: Results = {}
    for name, case in inputs.items():
        for op, options in options_of(case).items():
            results[f"{op} {name}"] = as_tuple(case.run(getattr(mtp_ext, op), **options))
        logits = case.logits.reshape(-1, case.vocab)
        results[f"select_branches {name}"] = tuple(mtp_ext.select_branches(logits, **SELECTION))
    return results


def main(folder: Path) -> None:
    """Run by the tests in a process of its own: writes the loaded libraries and the results."""
    # The inputs come from one process for all: torch's own arithmetic differs between instruction sets, too.
    inputs = {name: BranchCase(*parts) for name, parts in torch.load(folder / "cases.pt").items()}
    loaded = [library.name for library in LIBRARIES if library.loaded and library.name.startswith("cpu")]
    torch.save({"loaded": loaded, "results": compute(inputs)}, folder / "results.pt")


@pytest.fixture(scope="module")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Results]:
    """The results of an instruction set by its name."""

    @cache
    def results(instruction_set: str) -> Results:
        folder = tmp_path_factory.mktemp(instruction_set)
        inputs = {name: (case.logits, case.log_probs, case.indptr) for name, case in cases().items()}
        torch.save(inputs, folder / "cases.pt")
        environment = os.environ | {"ATEN_CPU_CAPABILITY": instruction_set}
        subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True)
        saved = torch.load(folder / "results.pt")
        assert saved["loaded"] == [f"cpu_{instruction_set}"]
        return saved["results"]

    return results


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_results_equal_the_oracle(library: Library, results_of: Callable[[str], Results]) -> None:
    results = results_of(instruction_set_of(library))
    for name, case in cases().items():
        expected, oracle = case.run(reference.marginalize), case.oracle("marginalize")
        assert_within_budget(results[f"marginalize {name}"][0], expected, oracle)
        assert_top(*results[f"marginalize_topk {name}"], expected, oracle)
        everywhere = oracle.float()
        everywhere[:, -1] = results[f"marginalize_targets {name}"][0]
        assert_within_budget(everywhere, expected, oracle)


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_instruction_sets_agree(library: Library, results_of: Callable[[str], Results]) -> None:
    """With the plainest: numbers no further apart than two that keep within the budget, and the same choices where
    these decide them."""
    results, plainest = results_of(instruction_set_of(library)), results_of(INSTRUCTION_SETS[0])
    for name, case in cases().items():
        for op, budget in budgets(case).items():
            ours, theirs = results[f"{op} {name}"], plainest[f"{op} {name}"]
            for one, other in zip(ours, theirs, strict=True):
                if one.dtype == torch.int64:
                    certain = ranks_are_certain(theirs[0], budget) if op.endswith("topk") else torch.ones_like(one) > 0
                    assert torch.equal(one[certain], other[certain]), f"{op} {name}"
                else:
                    assert_same_non_finite(one, other)
                    finite = other.isfinite()
                    assert_near(one[finite], other[finite].double(), 2.0 * budget, f"{op} {name}")


def ranks_are_certain(log_probs: Tensor, budget: float) -> Tensor:
    """bool [rows, k]: which entries of a ranking are so far from their neighbours that rounding cannot swap them.

    Two values, each within the budget of the truth and so no more than 2 budgets off each other, keep their order where
    the gap is over 4. The last entry has a neighbour that did not make it.
    """
    gaps = (log_probs[:, :-1] - log_probs[:, 1:]) > 4.0 * budget
    edge = torch.ones_like(log_probs[:, :1], dtype=torch.bool)
    return torch.cat([edge, gaps], -1) & torch.cat([gaps, ~edge], -1) | ~log_probs.isfinite()


def budgets(case: BranchCase) -> dict[str, float]:
    """By op, that of the distribution that its results are taken from."""
    logits, log_probs = case.logits.reshape(-1, case.vocab), case.log_probs.reshape(-1, 1)
    expected, oracle = logits.float().log_softmax(-1), logits.double().log_softmax(-1)
    mixture = error_budget(case.run(reference.marginalize), case.oracle("marginalize"))
    return {
        "marginalize": mixture,
        "marginalize_topk": mixture,
        "marginalize_targets": mixture,
        "joint_topk": error_budget(log_probs + expected, log_probs.double() + oracle),
        "select_branches": error_budget(expected, oracle),
    }


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_attention_equals_the_oracle(library: Library) -> None:
    """Sets round differently, so each is held to the budget by itself."""
    laws = ["equals_the_oracle", "extreme_scores", "nan_stays_with_those_who_see_it"]
    assert_laws_hold(library, *[f"test_tree_attention.py::test_{law}" for law in laws])


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_attention_by_matrix_tiles(library: Library) -> None:
    """brgemm for many rows in bfloat16, which a CPU with AMX takes and any that multiplies bfloat16 can."""
    if instruction_set_of(library) != "avx512" or not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU does not multiply bfloat16")
    assert_laws_hold(library, "test_tree_attention.py", MTP_EXT_MATRIX_TILES="1")


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
