"""The CUDA library where there may be no GPU: it loads, its kernels are registered, and what it lacks is said."""

import re
from pathlib import Path

import pytest
import torch
from laws import built_libraries

import mtp_ext
from mtp_ext import libraries
from mtp_ext.libraries import Library
from mtp_ext.testing import has_kernel

OPS = [
    "append_",
    "branch_normalizers",
    "commit_",
    "joint_topk",
    "marginalize",
    "marginalize_targets",
    "marginalize_topk",
    "merge_states",
    "mix_branches",
    "select_branches",
    "tree_attention",
    "verify_greedy",
    "verify_sampling",
]


@pytest.mark.parametrize("library", built_libraries("cuda"))
def test_kernels_are_registered(library: Library) -> None:
    assert library.loaded, library.reason
    missing = [op for op in OPS if not has_kernel(op, "cuda")]
    assert not missing, f"no CUDA kernel for {missing}"


@pytest.mark.parametrize("library", built_libraries("cuda"))
def test_the_library_says_what_it_was_built_for(library: Library) -> None:
    """In the sentence about a device that it has no code for."""
    assert re.search(rb"built for (sm_\d+|PTX of compute_\d+)", library.path.read_bytes())


@pytest.mark.parametrize("library", built_libraries("cuda"))
def test_a_missing_cuda_runtime_is_a_reason_and_no_error(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = library.path.read_bytes()
    (tmp_path / library.path.name).write_bytes(data.replace(b"libcudart.so.", b"libabsent.so."))
    monkeypatch.setattr(libraries, "_FOLDER", tmp_path)
    found = libraries._load("cuda")
    assert not found.loaded
    assert re.match(r"cannot be loaded: libabsent\.so\.\d+: cannot open shared object file", found.reason)


def test_check_without_a_fault() -> None:
    mtp_ext.check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cpu_tensor_does_not_reach_the_cuda_kernel() -> None:
    result = mtp_ext.marginalize(torch.zeros(1, 2, 3), torch.zeros(1, 2))
    torch.testing.assert_close(result, torch.full((1, 3), 1 / 3).log())
