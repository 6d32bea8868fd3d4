"""One process of a group that shares a vocabulary: runs every case on its slice and saves what came out.

    python sharded_linear.py RANK WORLD FOLDER MODE

MODE "laws" runs CASES and REFUSALS; "death" lets rank 1 exit while the others wait for it.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from linear_cases import LinearCase, linear_case
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import mtp_ext

OPS = ["linear_marginalize", "linear_marginalize_topk", "linear_marginalize_targets"]


def broken_case() -> LinearCase:
    """Dead branches, a row without any, a broken row, and tokens that tie across the slices."""
    case = linear_case([4, 0, 3, 2], 16, 301)
    case.log_probs[1], case.hidden[1] = -torch.inf, torch.nan
    case.hidden[5, 0] = torch.nan
    case.unembedding[:] = case.unembedding[torch.arange(301) % 37]
    return case


CASES: dict[str, tuple[LinearCase, dict[str, Any]]] = {
    "ragged": (linear_case([3, 0, 40, 1], 16, 3001, bias=True), {}),
    "dense": (linear_case([5, 5], 16, 700, softcap=5.0, dense=True), {"renormalize": False}),
    "small workspace": (linear_case([3, 0, 40, 1], 16, 3001), {"workspace_bytes": 5 * 4 * 3001}),
    "bfloat16": (linear_case([9], 16, 513, dtype=torch.bfloat16), {}),
    "broken": (broken_case(), {}),
    "no branches": (linear_case([0, 0], 16, 33), {}),
    "few tokens": (linear_case([2, 3], 16, 3), {}),
    "dtensor": (linear_case([3, 3], 16, 1001, bias=True, dense=True), {}),
}


def cut(case: LinearCase, world: int) -> list[int]:
    """Uneven slices, the second of four empty: the first token of each, and the end."""
    places = [0, case.vocab // 5, *[case.vocab // 5 + (i * case.vocab) // (2 * world) for i in range(world - 2)]]
    return [*places, case.vocab]


def options_of(op: str, case: LinearCase) -> dict[str, Any]:
    targets = torch.arange(case.rows) * 101 % case.vocab
    return {OPS[1]: {"k": min(5, case.vocab)}, OPS[2]: {"targets": targets}}.get(op, {})


def slice_of(case: LinearCase, rank: int, world: int) -> LinearCase:
    begin, end = cut(case, world)[rank : rank + 2]
    bias = None if case.bias is None else case.bias[begin:end]
    return replace(case, unembedding=case.unembedding[begin:end], bias=bias)


def run_laws(rank: int, world: int, group: Any) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (case, options) in CASES.items():
        if name == "dtensor":
            continue
        part = slice_of(case, rank, world)
        for op in OPS:
            results[name, op] = part.run(op, group=group, **options_of(op, case), **options)
    if world == 2:  # of four slices one is empty, and what has no outputs cannot be packed
        packed = slice_of(CASES["ragged"][0], rank, world)
        results["packed"] = packed.run(OPS[0], group=group, **{"unembedding": mtp_ext.pack_linear(packed.unembedding)})
    results["gradients"] = gradients(CASES["ragged"][0], rank, world, group)
    results |= run_dtensors(world)
    for name, change in REFUSALS.items():
        case = change(slice_of(CASES["ragged"][0], rank, world), rank)
        try:
            case.run(OPS[1], group=group, k=3001 if name != "a k beyond all slices" else 3002)
        except (TypeError, ValueError) as error:
            results["refusal", name] = f"{type(error).__name__}: {error}"
    return results


def gradients(case: LinearCase, rank: int, world: int, group: Any) -> list[Tensor]:
    """Of hidden states and this slice of the unembedding."""
    part = slice_of(case, rank, world)
    leaves = part.hidden.clone().requires_grad_(), part.unembedding.clone().requires_grad_()
    out = replace(part, hidden=leaves[0], unembedding=leaves[1]).run(OPS[2], group=group, **options_of(OPS[2], case))
    return list(torch.autograd.grad(out[out.isfinite()].sum(), leaves))


def run_dtensors(world: int) -> dict[str, Any]:
    """The ops on DTensors, their gradient, and placements that are refused."""
    mesh = init_device_mesh("cpu", (world,))
    case = CASES["dtensor"][0]
    shards = [Shard(0)]
    unembedding, bias = (distribute_tensor(x, mesh, shards) for x in (case.unembedding, case.bias))
    hidden, log_probs = (distribute_tensor(x, mesh, [Replicate()]) for x in (case.hidden, case.log_probs))
    inputs = {"branch_hidden": hidden, "unembedding": unembedding, "branch_log_probs": log_probs, "bias": bias}
    results: dict[str, Any] = {("dtensor", op): case.run(op, **inputs, **options_of(op, case)) for op in OPS}
    leaves = [x.detach().requires_grad_() for x in (hidden, unembedding)]
    out = case.run(OPS[2], **(inputs | dict(zip(["branch_hidden", "unembedding"], leaves, strict=True))),
                   **options_of(OPS[2], case))  # fmt: skip
    results["dtensor gradients"] = [x.full_tensor() for x in torch.autograd.grad(out.sum(), leaves)]
    refused = {
        "placement": {"unembedding": distribute_tensor(case.unembedding, mesh, [Shard(1)])},
        "bias": {"bias": distribute_tensor(case.bias, mesh, [Replicate()])},
        "hidden": {"branch_hidden": distribute_tensor(case.hidden, mesh, [Shard(0)])},
        "group": {"group": distributed.group.WORLD},
    }
    for name, change in refused.items():
        try:
            case.run(OPS[0], **(inputs | change))
        except ValueError as error:
            results["dtensor refusal", name] = str(error)
    return results


REFUSALS: dict[str, Callable[[LinearCase, int], LinearCase]] = {
    "one rank's unembedding": lambda case, rank: (
        replace(case, unembedding=case.unembedding[:, :-1]) if rank == 1 else case
    ),
    "other weights": lambda case, rank: replace(case, log_probs=case.log_probs + (rank == 1)),
    "another dtype": lambda case, rank: (
        replace(case, hidden=case.hidden.bfloat16(), unembedding=case.unembedding.bfloat16()) if rank == 1 else case
    ),
    "a k beyond all slices": lambda case, rank: case,
}


def run_death(rank: int, group: Any) -> str:
    case = slice_of(CASES["ragged"][0], rank, 2)
    if rank == 1:
        sys.exit()
    try:
        case.run(OPS[0], group=group)
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    return "no error"


def main() -> None:
    rank, world, folder, mode = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=20)
    )
    group = distributed.group.WORLD
    result = run_laws(rank, world, group) if mode == "laws" else run_death(rank, group)
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
