"""DTensors as arguments of `linear_marginalize`: an unembedding that knows in which slices its vocabulary lies."""

import sys
from typing import Any

from torch import Tensor, distributed

_VOCAB_DIM = 0  # of an unembedding [vocab, hidden] and a bias [vocab]


def is_dtensor(value: Any) -> bool:
    """Whether this is a DTensor. Their module takes a second to import; whoever has one has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def vocab_group(
    op: str, unembedding: Any, group: "distributed.ProcessGroup | None"
) -> "distributed.ProcessGroup | None":
    """The group over which a DTensor unembedding is sharded on the vocabulary; `group` where it is not a DTensor.

    Raises:
        ValueError: the DTensor is placed in another way, or there is a group besides.
    """
    if not is_dtensor(unembedding):
        return group
    _check_placements(op, "unembedding", unembedding, sharded=True)
    if group is not None:
        raise ValueError(f"{op}: group must be None where unembedding is a DTensor, which has its own")
    own: distributed.ProcessGroup = unembedding.device_mesh.get_group()
    return own


def local_slice(op: str, argument: str, tensor: Any) -> Any:
    """This rank's slice of an argument along the vocabulary, differentiable; what is not a DTensor is one already."""
    if not is_dtensor(tensor):
        return tensor
    _check_placements(op, argument, tensor, sharded=True)
    return tensor.to_local()


def local_copy(op: str, argument: str, tensor: Any) -> Any:
    """The local tensor of an argument that is the same on every rank, and so is its gradient."""
    if not is_dtensor(tensor):
        return tensor
    _check_placements(op, argument, tensor, sharded=False)
    local: Tensor = tensor.to_local(grad_placements=tensor.placements)
    return local


def _check_placements(op: str, argument: str, tensor: Any, sharded: bool) -> None:
    placements, mesh = tensor.placements, tensor.device_mesh
    fits = placements[0].is_shard(_VOCAB_DIM) if sharded else placements[0].is_replicate()
    if mesh.ndim != 1 or not fits:
        expected = f"Shard(dim={_VOCAB_DIM})" if sharded else "Replicate()"
        raise ValueError(
            f"{op}: {argument} must be a DTensor placed as ({expected},) on a mesh of one dimension, "
            f"got {placements} on a mesh of {mesh.ndim}; a mesh's own dimension is mesh['name']"
        )
