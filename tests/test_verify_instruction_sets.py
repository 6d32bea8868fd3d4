"""Verification on each compiled instruction set by itself: all accept the same, but for uniforms within rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from instruction_sets import instruction_set_of
from laws import built_libraries

import mtp_ext
from mtp_ext.libraries import LIBRARIES, Library
from mtp_ext.testing import assert_same_bits
from mtp_ext.testing_trees import random_parents, siblings
from mtp_ext.testing_verify import METHODS, VerifyCase, verify_case

TREES = [random_parents(12, 3), random_parents(12, 1), siblings(12)]
SETTINGS = {"plain": {}, "top-p": {"top_p": 0.9}, "top-k": {"top_k": 33, "min_p": 0.01, "temperature": 0.7}}
Results = dict[str, list[torch.Tensor]]


def cases() -> dict[str, VerifyCase]:
    """Sizes that end within a register of any width; logits that need a shift; impossible tokens."""
    huge = verify_case(TREES, 1031, seed=2)
    spoiled = verify_case(TREES, 8209, seed=3)
    spoiled.logits[:, :, ::3] = -torch.inf
    return {
        "float32": verify_case(TREES, 8209),
        "bfloat16": verify_case(TREES, 8209, dtype=torch.bfloat16),
        "float16": verify_case(TREES, 517, dtype=torch.float16),
        "huge": huge.changed(logits=huge.logits + 1e4),
        "impossible": spoiled,
    }


def main(folder: Path) -> None:
    """Run by the tests in a process of its own: writes the loaded libraries and the results."""
    # The inputs come from one process for all: torch's own arithmetic differs between instruction sets, too.
    results: Results = {}
    for name, parts in torch.load(folder / "cases.pt").items():
        case = VerifyCase(**parts)
        tree = mtp_ext.TokenTree(case.tokens, case.parents)
        results[f"greedy {name}"] = list(mtp_ext.verify_greedy(tree, case.logits))
        for method in METHODS:
            for setting, values in SETTINGS.items():
                results[f"{method} {setting} {name}"] = list(case.run(method, **values))
    loaded = [library.name for library in LIBRARIES if library.loaded and library.name.startswith("cpu")]
    torch.save({"loaded": loaded, "results": results}, folder / "results.pt")


@pytest.mark.parametrize("library", built_libraries("cpu"))
def test_results_equal_the_reference(library: Library, tmp_path: Path) -> None:
    name = instruction_set_of(library)
    inputs = cases()
    torch.save({key: vars(case) for key, case in inputs.items()}, tmp_path / "cases.pt")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": name}
    subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=True)
    saved = torch.load(tmp_path / "results.pt")
    assert saved["loaded"] == [f"cpu_{name}"]
    for key, case in inputs.items():
        tree = mtp_ext.TokenTree(case.tokens, case.parents)
        assert_same_bits(saved["results"][f"greedy {key}"], list(mtp_ext.verify_greedy(tree, case.logits)))
        for method in METHODS:
            for setting, values in SETTINGS.items():
                # No uniform of these few lies within rounding of its threshold: the cases have fixed seeds.
                expected = case.reference(method, **values)
                assert_same_bits(saved["results"][f"{method} {setting} {key}"], list(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
