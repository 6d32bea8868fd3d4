"""Fast kernels for multi-token prediction in PyTorch: marginalization over intermediate tokens."""

from importlib.metadata import version as _version

from mtp_ext import libraries as libraries
from mtp_ext.branches import Branches, select_branches
from mtp_ext.marginalize import (
    TopPairs,
    TopTokens,
    joint_topk,
    marginalize,
    marginalize_targets,
    marginalize_topk,
)

__version__ = _version("mtp_ext")

__all__ = [
    "Branches",
    "TopPairs",
    "TopTokens",
    "joint_topk",
    "marginalize",
    "marginalize_targets",
    "marginalize_topk",
    "select_branches",
]
