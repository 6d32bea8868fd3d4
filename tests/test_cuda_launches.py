"""What a call launches on CUDA and what its memory accesses cost: counted while the PTX is executed on a CPU."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import assert_same_bits, dense_case, ragged_case
from mtp_ext.testing_trees import TreeCase, random_parents, siblings, tree_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SECTOR = 32  # bytes


def kernels(log: Sequence[str]) -> list[str]:
    """Names of the kernels that a log says were launched; anything else that it says as it is."""
    named = re.compile(r"_ZN7mtp_ext4cuda\d+(\w+?)(?:I|E).* grid=")
    return [found[1] if (found := named.match(line)) else line for line in log]


def launched(stand_in: Any, call: Callable[[], object]) -> list[str]:
    stand_in.take_log()
    call()
    return kernels(stand_in.take_log())


def counted(stand_in: Any, call: Callable[[], object], kernel: str) -> list[dict[str, Any]]:
    """What the accesses of one kernel cost, a row an instruction."""
    stand_in.count(True)
    stand_in.take_counts()
    call()
    rows = stand_in.take_counts()
    stand_in.count(False)
    assert any(kernel in row["kernel"] for row in rows)
    return [row for row in rows if kernel in row["kernel"]]


# ---- Launches -----------------------------------------------------------------------------------------------


def drafts() -> tuple[mtp_ext.TokenTree, torch.Tensor, torch.Tensor]:
    """Trees of two requests, the target's logits and uniforms."""
    parents = torch.tensor([[-1, 0, 0, 1], [-1, 0, 1, -2]])
    tokens = torch.tensor([[3, 1, 2, 4], [3, 1, 2, 0]])
    return mtp_ext.TokenTree(tokens, parents), torch.randn(2, 4, 300), torch.rand(2, 5)


@pytest.mark.parametrize("method", ["target_only", "without_replacement", "traversal", "typical"])
def test_a_step_of_sampling_is_one_launch_that_nobody_waits_for(stand_in: Any, method: str) -> None:
    tree, logits, uniforms = drafts()
    drawn = {
        "draft_log_probs": torch.randn(2, 300).log_softmax(-1),
        "draft_rows": torch.tensor([[-1, 0, 0, 1], [-1, 1, 1, -1]]),
    }
    options = drawn if method in ("without_replacement", "traversal") else {}
    log = launched(
        stand_in, lambda: mtp_ext.verify_sampling(tree, logits, uniforms, method=method, top_p=0.9, **options)
    )
    assert log == ["verify_sampling_kernel"]


def test_a_step_of_greedy_verification_is_one_launch_that_nobody_waits_for(stand_in: Any) -> None:
    tree, logits, _ = drafts()
    assert launched(stand_in, lambda: mtp_ext.verify_greedy(tree, logits)) == ["verify_greedy_kernel"]


def test_all_layers_are_committed_in_one_launch(stand_in: Any) -> None:
    caches = [torch.randn(2, 20, 3, 16) for _ in range(64)]
    accepted = mtp_ext.verify_greedy(*drafts()[:2])
    log = launched(stand_in, lambda: mtp_ext.commit_(caches[:32], caches[32:], torch.tensor([5, 7]), accepted))
    assert log == ["commit_kernel"]


def test_the_log_shows_who_waits_for_the_device(stand_in: Any) -> None:
    mtp_ext.verify_greedy(*drafts()[:2])
    assert launched(stand_in, mtp_ext.check) == ["cudaDeviceSynchronize"]


# ---- Marginalization ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("branches", [8, 40])
def test_marginalize_reads_each_logit_twice_by_16_bytes(stand_in: Any, dtype: torch.dtype, branches: int) -> None:
    """Once for the sums, once for the mixture, where it comes from the L2 cache if all fit into it."""
    case = dense_case(1, branches, 8192, dtype=dtype)
    for kernel in ("sum_branches_kernel", "mix_kernel"):
        rows = counted(stand_in, lambda: mtp_ext.marginalize(case.logits, case.log_probs), kernel)
        wide = [row for row in rows if row["bytes"] == 16 and row["instruction"].startswith("ld.global.v4")]
        logits = sum(row["ideal"] for row in wide if row["ideal"] == row["transactions"] >= 16 * row["requests"])
        assert logits * SECTOR == case.logits.nbytes
        read = sum(row["transactions"] for row in rows if row["instruction"].startswith("ld.global"))
        assert read * SECTOR < 1.5 * case.logits.nbytes  # terms of 16 bytes, as sectors of 32


def test_sums_do_not_depend_on_the_grid(stand_in: Any) -> None:
    """Of a row alone, and beside rows with so many branches that all are mixed by another kernel on another grid."""
    counts = [8, 5, 100, 100]
    many = ragged_case(counts, 5003)
    few = ragged_case(counts[:2], 5003)
    ends = torch.tensor([0, 8, 13])
    alone = (many.logits[:13].clone(), many.log_probs[:13].clone())
    stand_in.take_log()
    result = mtp_ext.marginalize(many.logits, many.log_probs, indptr=many.indptr)
    beside = stand_in.take_log()
    expected = mtp_ext.marginalize(*alone, indptr=ends)
    single = stand_in.take_log()
    assert few.indptr is not None
    assert few.indptr.equal(ends)
    assert [line.split(" stream")[0] for line in beside] != [line.split(" stream")[0] for line in single]
    assert "mix_kernelIfLb1E" in beside[-1]
    assert "mix_kernelIfLb0E" in single[-1]
    assert_same_bits(result[:2], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("branches", [8, 40])
def test_mixtures_are_written_by_16_bytes(stand_in: Any, dtype: torch.dtype, branches: int) -> None:
    """A lane of 16-bit logits has eight columns, which are two stores: each fills half of its sectors."""
    case = dense_case(1, branches, 8192, dtype=dtype)
    rows = counted(stand_in, lambda: mtp_ext.marginalize(case.logits, case.log_probs), "mix_kernel")
    written = [row for row in rows if row["instruction"].startswith("st.global")]
    assert sum(row["ideal"] for row in written) * SECTOR == 8192 * 4
    assert all(row["bytes"] == 16 for row in written)
    stores = 1 if dtype == torch.float32 else 2
    assert all(row["transactions"] == stores * row["ideal"] for row in written)


# ---- Attention ----------------------------------------------------------------------------------------------


def attention(case: TreeCase) -> Callable[[], object]:
    return lambda: mtp_ext.tree_attention(
        case.query, case.key, case.value, case.ancestors, case.prefix_lengths, **case.options
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("paged", [False, True], ids=["contiguous", "paged"])
def test_attention_has_no_bank_conflicts(stand_in: Any, dtype: torch.dtype, head_dim: int, paged: bool) -> None:
    case = tree_case([random_parents(20, 4)], [150], heads=8, kv_heads=2, head_dim=head_dim, dtype=dtype)
    if paged:
        case = case.paged(16)
    rows = counted(stand_in, attention(case), "tree_attention_kernel")
    shared = [row for row in rows if row["memory"] == "shared"]
    assert sum(row["requests"] for row in shared) > 100
    assert [row for row in shared if row["transactions"] != row["ideal"]] == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_that_nobody_sees_are_skipped(stand_in: Any, dtype: torch.dtype) -> None:
    """256 nodes are four tiles of rows and four blocks of keys: a chain needs 1 + 2 + 3 + 4 products, siblings need
    their diagonal, and the root's block for what they see of it."""

    def products(parents: list[int]) -> int:
        case = tree_case([parents], [0], heads=1, kv_heads=1, head_dim=64, dtype=dtype)
        rows = counted(stand_in, attention(case), "tree_attention_kernel")
        return sum(row["requests"] for row in rows if row["memory"] == "shared" and row["instruction"].startswith("ld"))

    chain = products(list(range(-1, 255)))
    assert products([-1] * 256) < 0.5 * chain
    assert products(siblings(256)) < 0.8 * chain
