"""The contracts: one op a file, each with its schema, checks, reference, fake and gradient, in that order."""

from mtp_ext.ops.joint_topk import joint_topk
from mtp_ext.ops.marginalize import marginalize
from mtp_ext.ops.marginalize_targets import marginalize_targets
from mtp_ext.ops.marginalize_topk import marginalize_topk
from mtp_ext.ops.select_branches import select_branches

__all__ = ["joint_topk", "marginalize", "marginalize_targets", "marginalize_topk", "select_branches"]
