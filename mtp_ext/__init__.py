"""Fast kernels for multi-token prediction in PyTorch: marginalization over intermediate tokens, trees, verification."""

from importlib.metadata import version as _version

from mtp_ext import libraries as libraries
from mtp_ext.branches import Branches, select_branches
from mtp_ext.faults import check
from mtp_ext.kv_cache import KVCache, append_, commit_
from mtp_ext.linear_marginalize import linear_marginalize, linear_marginalize_targets, linear_marginalize_topk
from mtp_ext.marginalize import (
    TopPairs,
    TopTokens,
    joint_topk,
    marginalize,
    marginalize_targets,
    marginalize_topk,
)
from mtp_ext.mix_layers import mix_layers
from mtp_ext.prediction import MarginalPrediction, predict_marginal
from mtp_ext.skinny_linear import (
    PackedLinear,
    TopOutputs,
    pack_linear,
    skinny_linear,
    skinny_linear_argmax,
    skinny_linear_topk,
)
from mtp_ext.tree import TokenTree
from mtp_ext.tree_attention import merge_states, tree_attention
from mtp_ext.tree_builders import TreeShape
from mtp_ext.tree_conversions import SiblingLinks
from mtp_ext.verify import Accepted, verify_greedy, verify_sampling

__version__ = _version("mtp_ext")

__all__ = [
    "Accepted",
    "Branches",
    "KVCache",
    "MarginalPrediction",
    "PackedLinear",
    "SiblingLinks",
    "TokenTree",
    "TopOutputs",
    "TopPairs",
    "TopTokens",
    "TreeShape",
    "append_",
    "check",
    "commit_",
    "joint_topk",
    "linear_marginalize",
    "linear_marginalize_targets",
    "linear_marginalize_topk",
    "marginalize",
    "marginalize_targets",
    "marginalize_topk",
    "merge_states",
    "mix_layers",
    "pack_linear",
    "predict_marginal",
    "select_branches",
    "skinny_linear",
    "skinny_linear_argmax",
    "skinny_linear_topk",
    "tree_attention",
    "verify_greedy",
    "verify_sampling",
]
