"""A vocabulary in slices gives what one process gives, the same on every rank, over gloo with 2 and 4 processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_cases import LinearCase
from sharded_linear import CASES, OPS, options_of
from torch import Tensor, distributed

from mtp_ext.reference.numbers import top_descending
from mtp_ext.testing import assert_same_bits, assert_within_budget

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(), reason="torch was built without gloo"
)
SCRIPT = Path(__file__).with_name("sharded_linear.py")


def launch(world: int, folder: Path, mode: str) -> list[Any]:
    """What each rank saved; None where it saved nothing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    command = [sys.executable, str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder), mode], env=environment, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    files = [folder / f"{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=False) if file.exists() else None for file in files]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return launch(request.param, tmp_path_factory.mktemp("group"), "laws")


def whole(op: str, case: LinearCase, results: list[Any]) -> Any:
    """The result of all ranks; the slices of a mixture side by side, all else once, the same bits on every rank."""
    if op == OPS[0]:
        return torch.cat(results, -1)
    for result in results[1:]:
        assert_same_bits(result, results[0])
    return results[0]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(ranks: list[Any], name: str, op: str) -> None:
    case, options = CASES[name]
    result = whole(op, case, [rank[name, op] for rank in ranks])
    shared = {"renormalize": options.get("renormalize", True)}
    expected, oracle = case.reference(**shared), case.oracle(**shared)
    if op == OPS[0]:
        assert_within_budget(result, expected, oracle, **case.budget)
    elif op == OPS[1]:
        best = [top_descending(mixture, result.log_probs.shape[1])[0] for mixture in (expected, oracle)]
        assert_within_budget(result.log_probs, *best, **case.budget)
        found = result.tokens >= 0
        assert torch.equal(found, result.log_probs > -torch.inf)
        everywhere = oracle.float()
        row = torch.arange(case.rows)[:, None].expand_as(found)[found]
        everywhere[row, result.tokens[found]] = result.log_probs[found]
        assert_within_budget(everywhere, expected, oracle, **case.budget)
    else:
        everywhere = oracle.float()
        everywhere[torch.arange(case.rows), options_of(op, case)["targets"]] = result
        assert_within_budget(everywhere, expected, oracle, **case.budget)


def test_ties_across_slices_go_to_the_lower_token(ranks: list[Any]) -> None:
    top = ranks[0]["broken", OPS[1]]
    first = top.tokens[0, 0].item()
    assert first < 37
    tied = top.tokens[0][top.log_probs[0] == top.log_probs[0, 0]]
    assert (tied.diff() > 0).all()


def test_packed_slices(ranks: list[Any]) -> None:
    if len(ranks) != 2:
        pytest.skip("one slice of four is empty, and no weight of no outputs can be packed")
    case = CASES["ragged"][0]
    packed = torch.cat([rank["packed"] for rank in ranks], -1)
    assert_within_budget(packed, case.reference(), case.oracle())


def test_gradients_of_dtensors(ranks: list[Any]) -> None:
    case = CASES["dtensor"][0]
    for one, reference, exact in zip(ranks[0]["dtensor gradients"], *reference_gradients(case), strict=True):
        assert_within_budget(one, reference, exact, scale=case.largest_logit)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("placement", "unembedding must be a DTensor placed as (Shard(dim=0),) on a mesh of one dimension, got "
                      "(Shard(dim=1),) on a mesh of 1; a mesh's own dimension is mesh['name']"),
        ("bias", "bias must be a DTensor placed as (Shard(dim=0),) on a mesh of one dimension, got (Replicate(),) on a "
                 "mesh of 1; a mesh's own dimension is mesh['name']"),
        ("hidden", "branch_hidden must be a DTensor placed as (Replicate(),) on a mesh of one dimension, got "
                   "(Shard(dim=0),) on a mesh of 1; a mesh's own dimension is mesh['name']"),
        ("group", "group must be None where unembedding is a DTensor, which has its own"),
    ],
)  # fmt: skip
def test_dtensors_placed_otherwise_are_refused(ranks: list[Any], name: str, sentence: str) -> None:
    for results in ranks:
        assert results["dtensor refusal", name] == f"linear_marginalize: {sentence}"


def reference_gradients(case: LinearCase) -> tuple[list[Tensor], list[Tensor]]:
    """Of hidden states and unembedding, in float32 and float64."""

    def gradients(kind: str, dtype: torch.dtype) -> list[Tensor]:
        inputs = case.map(lambda x: x if x.dtype == torch.int64 else x.to(dtype))
        leaves = inputs.hidden.requires_grad_(), inputs.unembedding.requires_grad_()
        out = getattr(inputs, kind)(OPS[2], **options_of(OPS[2], case))
        return list(torch.autograd.grad(out[out.isfinite()].sum(), leaves))

    return gradients("reference", torch.float32), gradients("reference", torch.float64)


def test_gradients(ranks: list[Any]) -> None:
    case = CASES["ragged"][0]
    expected, oracle = reference_gradients(case)
    hidden = whole(OPS[2], case, [rank["gradients"][0] for rank in ranks])
    unembedding = torch.cat([rank["gradients"][1] for rank in ranks])
    for one, reference, exact in zip((hidden, unembedding), expected, oracle, strict=True):
        assert_within_budget(one, reference, exact, scale=case.largest_logit)


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("one rank's unembedding", [
            "rank 1 of the group has refused its arguments",
            "unembedding must be [vocab, hidden=16] float32, bfloat16 or float16 on cpu, got [",
        ]),
        ("other weights", ["the checksum of branch_log_probs must be the same on every rank of the group, got"]),
        ("another dtype", ["the bytes of a logit must be the same on every rank of the group, got 4 on rank 0 and 2 "
                           "on rank 1"]),
        ("a k beyond all slices", ["k must be from 1 to 3001, got 3002"]),
    ],
)  # fmt: skip
def test_refusals_reach_every_rank(ranks: list[Any], name: str, sentences: list[str]) -> None:
    for rank, results in enumerate(ranks):
        sentence = sentences[min(rank, len(sentences) - 1)] if rank < 2 else sentences[0]
        assert results["refusal", name].startswith(f"ValueError: linear_marginalize_topk: {sentence}")


def test_a_rank_that_dies_is_an_error_on_the_others(tmp_path: Path) -> None:
    assert launch(2, tmp_path, "death")[0].startswith("RuntimeError")
