"""`tree_attention` against PyTorch's attention with the tree as a dense mask, and against vLLM's kernel for chains."""

from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
import vllm_cpu
from attention import DenseAttention, random_trees
from cases import NODES_GROW, PREFIX_GROWS, SIBLING_SHAPES, TREE_SHAPES, Case, over
from round_robin import Call

from mtp_ext.testing import threads
from mtp_ext.testing_trees import TreeCase

# flex_attention takes most of a minute to compile: only where it is at its best, in the largest tree.
COMPILED = (Case((1, 2048, 64, 32, 8, 128), "float32", 1), Case((1, 2048, 64, 32, 8, 128), "bfloat16", 1))
SCALING_SECONDS = 1.5  # a case


@pytest.mark.benchmark(group="speed")
@over(TREE_SHAPES)
def test_tree_attention(compare: Callable[..., None], vllm: Path | None, case: Case) -> None:
    tree = random_trees(case)
    job = jobs.attention_job("tree_attention", tree)
    compiled = {"flex_attention": DenseAttention.of(tree).flex()} if case in COMPILED else {}
    compare(case, job, {"SDPA": job.eager, **chain(vllm, tree, case.threads)}, compiled=compiled)


@pytest.mark.benchmark(group="speed")
@over(SIBLING_SHAPES)
def test_siblings(compare: Callable[..., None], case: Case) -> None:
    """No rival but a dense mask can keep siblings apart."""
    job = jobs.sibling_attention(case)
    compare(case, job, {"SDPA": job.eager})


@pytest.mark.benchmark(group="scaling")
@over(dict.fromkeys(NODES_GROW + PREFIX_GROWS), threads=(1,))
def test_scaling(compare: Callable[..., None], vllm: Path | None, case: Case) -> None:
    tree = random_trees(case)
    job = jobs.attention_job("tree_attention", tree)
    compare(case, job, {"SDPA": job.eager, **chain(vllm, tree, 1)}, time_limit=SCALING_SECONDS)


def chain(library: Path | None, tree: TreeCase, thread_count: int) -> dict[str, Call]:
    """vLLM's kernel as a rival, where it is installed: on a chain of as many rows, which it must get right."""
    if library is None:
        return {}
    with threads(thread_count):
        call = vllm_cpu.chain(library, tree)
        jobs.assert_agree(call(), tree.changed(ancestors=None).run()[0])
    return {"vLLM chain": call}
