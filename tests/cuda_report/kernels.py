"""The kernels of the report: the op that launches each, the cases it is judged at, and the small ones it is counted at.

Cases and ops are those of the benchmarks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases as benchmark
import torch
from attention import random_trees
from jobs import JOBS

import mtp_ext

from . import work
from .work import Shape, WorkOf

BRANCHES = "rows x branches x vocabulary"
TREES = "batch x prefix x nodes x heads x KV heads x head_dim"


@dataclass(frozen=True)
class Op:
    """An op of the benchmarks.

    Attributes:
        axes: what the numbers of a case are.
        cases: of the benchmarks.
        counted: small ones, which take the kernels' usual ways.
        start: makes the input of a case and returns the call.
        kernels: that it launches and no op above it, with their work.
    """

    axes: str
    cases: tuple[Shape, ...]
    counted: tuple[Shape, ...]
    start: Callable[[benchmark.Case], Callable[[], Any]]
    kernels: dict[str, WorkOf]


def _job(name: str) -> Callable[[benchmark.Case], Callable[[], Any]]:
    return lambda case: JOBS[name].make_job(case).ours


def _append(case: benchmark.Case) -> Callable[[], Any]:
    tree = random_trees(case)
    _, prefix, nodes, *_ = case.shape
    new_key, new_value = (cache[:, prefix : prefix + nodes].clone() for cache in (tree.key, tree.value))
    return lambda: mtp_ext.append_(tree.key, tree.value, new_key, new_value, tree.prefix_lengths)


def _merge_states(case: benchmark.Case) -> Callable[[], Any]:
    batch, _, nodes, heads, _, head_dim = case.shape
    out = torch.randn(batch, nodes, heads, head_dim).to(case.torch_dtype)
    lse = torch.randn(batch, nodes, heads)
    return lambda: mtp_ext.merge_states(out, lse, out.clone(), lse.clone())


_FEW, _MANY = (1, 8, 8192), (1, 40, 8192)  # branches: they are mixed by one warp, or by eight

OPS = {
    "marginalize": Op(
        BRANCHES,
        benchmark.BRANCH_SHAPES,
        (_FEW, _MANY),
        _job("marginalize"),
        {
            "sum_branches_kernel": work.sum_branches,
            "prepare_mixtures_kernel": work.prepare_mixtures,
            "mix_kernel": work.mix,
        },
    ),
    "marginalize_topk": Op(
        BRANCHES,
        benchmark.BRANCH_SHAPES,
        (_MANY,),
        _job("marginalize_topk"),
        {
            "bound_blocks_kernel": work.bound_blocks,
            "find_thresholds_kernel": work.find_thresholds,
            "select_columns_kernel": work.select_columns,
        },
    ),
    "marginalize_targets": Op(
        BRANCHES,
        benchmark.BRANCH_SHAPES,
        (_MANY,),
        _job("marginalize_targets"),
        {"mix_targets_kernel": work.mix_targets},
    ),
    "joint_topk": Op(
        BRANCHES, benchmark.BRANCH_SHAPES, (_MANY,), _job("joint_topk"), {"joint_topk_kernel": work.joint_topk}
    ),
    "linear_marginalize": Op(
        "branches x hidden x vocabulary",
        benchmark.HIDDEN_SHAPES,
        ((64, 16, 8192),),
        _job("linear_marginalize"),
        {"branch_normalizers_kernel": work.branch_normalizers},
    ),
    "select_branches": Op(
        "rows x vocabulary",
        benchmark.LOGIT_SHAPES,
        ((2, 32768),),
        _job("select_branches"),
        {"select_branches_kernel": work.select_branches},
    ),
    "verify_greedy": Op(
        "batch x nodes x vocabulary",
        benchmark.VERIFY_SHAPES,
        ((1, 16, 16384),),
        _job("verify_greedy"),
        {"verify_greedy_kernel": work.verify_greedy},
    ),
    "verify_sampling": Op(
        "batch x nodes x vocabulary",
        benchmark.VERIFY_SHAPES,
        ((1, 16, 16384),),
        _job("verify_sampling"),
        {"verify_sampling_kernel": work.verify_sampling},
    ),
    "tree_attention": Op(
        TREES,
        benchmark.TREE_SHAPES + benchmark.SIBLING_SHAPES,
        ((1, 256, 16, 8, 2, 64), (1, 512, 16, 8, 2, 128), (1, 256, 8, 8, 2, 256)),
        _job("tree_attention"),
        {"tree_attention_kernel": work.tree_attention, "tree_attention_merge": work.tree_attention_merge},
    ),
    "merge_states": Op(
        TREES,
        benchmark.TREE_SHAPES,
        ((1, 1, 16, 8, 2, 128),),
        _merge_states,
        {"merge_states_kernel": work.merge_states},
    ),
    "append_": Op(TREES, benchmark.TREE_SHAPES, ((1, 64, 16, 8, 2, 128),), _append, {"append_kernel": work.append}),
    "commit_": Op(
        "layers x batch x prefix x accepted x KV heads x head_dim",
        benchmark.COMMIT_SHAPES,
        ((4, 1, 16, 8, 3, 64),),
        _job("commit_"),
        {"commit_kernel": work.commit},
    ),
}
