"""The contracts: one op a file, each with its schema, checks, reference, fake and gradient, in that order."""

from mtp_ext.ops.append import append_
from mtp_ext.ops.commit import commit_
from mtp_ext.ops.joint_topk import joint_topk
from mtp_ext.ops.linear_marginalize import linear_marginalize
from mtp_ext.ops.linear_marginalize_targets import linear_marginalize_targets
from mtp_ext.ops.linear_marginalize_topk import linear_marginalize_topk
from mtp_ext.ops.marginalize import marginalize
from mtp_ext.ops.marginalize_targets import marginalize_targets
from mtp_ext.ops.marginalize_topk import marginalize_topk
from mtp_ext.ops.merge_states import merge_states
from mtp_ext.ops.mix_layers import mix_layers
from mtp_ext.ops.select_branches import select_branches
from mtp_ext.ops.skinny_linear import skinny_linear
from mtp_ext.ops.skinny_linear_topk import skinny_linear_topk
from mtp_ext.ops.tree_attention import tree_attention
from mtp_ext.ops.verify_greedy import verify_greedy
from mtp_ext.ops.verify_sampling import verify_sampling

__all__ = [
    "append_",
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
    "select_branches",
    "skinny_linear",
    "skinny_linear_topk",
    "tree_attention",
    "verify_greedy",
    "verify_sampling",
]
