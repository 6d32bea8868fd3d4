"""The definition of correct: plain PyTorch, any floating dtype, differentiable, no speed.

float64 in means float64 out, so that the reference is also the oracle of the tests; anything else is computed in
float32. Arguments are not checked here: mtp_ext.ops does that.
"""

from mtp_ext.reference.commit import commit_
from mtp_ext.reference.linear_marginalize import (
    branch_normalizers,
    linear_marginalize,
    linear_marginalize_targets,
    linear_marginalize_topk,
    mix_branches,
)
from mtp_ext.reference.marginalize import joint_topk, marginalize, marginalize_targets, marginalize_topk
from mtp_ext.reference.mix_layers import mix_layers, mix_layers_weights
from mtp_ext.reference.select_branches import select_branches
from mtp_ext.reference.skinny_linear import linear_into_, skinny_linear, skinny_linear_topk
from mtp_ext.reference.tree_attention import append_, merge_states, tree_attention
from mtp_ext.reference.verify import verify_greedy, verify_sampling

__all__ = [
    "append_",
    "branch_normalizers",
    "commit_",
    "joint_topk",
    "linear_into_",
    "linear_marginalize",
    "linear_marginalize_targets",
    "linear_marginalize_topk",
    "marginalize",
    "marginalize_targets",
    "marginalize_topk",
    "merge_states",
    "mix_branches",
    "mix_layers",
    "mix_layers_weights",
    "select_branches",
    "skinny_linear",
    "skinny_linear_topk",
    "tree_attention",
    "verify_greedy",
    "verify_sampling",
]
