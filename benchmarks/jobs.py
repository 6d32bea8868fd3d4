"""Each op at work on one case: the same input for our kernel and for eager PyTorch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import eager
import torch
from attention import DenseAttention, random_trees, siblings
from cases import (
    BRANCH_SHAPES,
    COMMIT_SHAPES,
    HEAD_SHAPES,
    HIDDEN_SHAPES,
    LINEAR_SHAPES,
    LOGIT_SHAPES,
    MIX_SHAPES,
    SIBLING_SHAPES,
    TREE_SHAPES,
    VERIFY_SHAPES,
    Case,
)
from round_robin import Call
from torch import Tensor
from verification import Commit, Verification

import mtp_ext
from mtp_ext.testing import dense_case, peaked_logits
from mtp_ext.testing_trees import TreeCase

K = 5
TOP_P = 0.99
MAX_BRANCHES = 1024
VERIFY_TOP_P = 0.9


@dataclass(frozen=True)
class Job:
    """One op on one input.

    Attributes:
        op: its name.
        inputs: the tensors that it reads.
        exponentials: one a logit for the normalizers, one more where all of the mixture is wanted; one a score.
        ours, eager: the calls.
        summary: what of a result must be equal, within rounding, for both.
        operations: of matrix products, two a multiply-add.
    """

    op: str
    inputs: Sequence[Tensor]
    exponentials: int
    ours: Call
    eager: Call
    summary: Callable[[Any], Tensor]
    operations: int = 0


def assert_agree(actual: Tensor, expected: Tensor) -> None:
    """A wrong result has no speed. Two right ones of a 16-bit type are each off by half of its last digit."""
    tolerance = max(1e-4, torch.finfo(expected.dtype).eps)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def _branches(case: Case) -> tuple[Tensor, Tensor]:
    """Logits, and log-weights that sum to one: eager code need not renormalize them."""
    branches = dense_case(*case.shape, dtype=case.torch_dtype)
    return branches.logits, branches.log_probs.log_softmax(-1)


def _first(result: Any) -> Tensor:
    first: Tensor = result if isinstance(result, Tensor) else result[0]
    return first


def marginalize(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="marginalize",
        inputs=(logits, weights),
        exponentials=2 * logits.numel(),
        ours=lambda: mtp_ext.marginalize(logits, weights),
        eager=lambda: eager.marginalize(logits, weights),
        summary=_first,
    )


def marginalize_topk(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="marginalize_topk",
        inputs=(logits, weights),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.marginalize_topk(logits, weights, k=K),
        eager=lambda: eager.marginalize_topk(logits, weights, K),
        summary=_first,
    )


def marginalize_targets(case: Case) -> Job:
    logits, weights = _branches(case)
    targets = torch.arange(case.shape[0])
    return Job(
        op="marginalize_targets",
        inputs=(logits, weights, targets),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.marginalize_targets(logits, weights, targets),
        eager=lambda: eager.marginalize_targets(logits, weights, targets),
        summary=_first,
    )


def linear_marginalize(case: Case) -> Job:
    branches, width, vocab = case.shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, branches, width, generator=generator).mul_(3.0).to(case.torch_dtype)
    unembedding = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).to(case.torch_dtype)
    weights = torch.randn(1, branches, generator=generator).log_softmax(-1)
    return Job(
        op="linear_marginalize",
        inputs=(hidden, unembedding, weights),
        exponentials=2 * branches * vocab,
        ours=lambda: mtp_ext.linear_marginalize(hidden, unembedding, weights),
        eager=lambda: eager.linear_marginalize(hidden, unembedding, weights),
        summary=lambda result: result.to(case.torch_dtype),  # as precise as the logits
        operations=2 * branches * width * vocab,
    )


def joint_topk(case: Case) -> Job:
    logits, weights = _branches(case)
    return Job(
        op="joint_topk",
        inputs=(logits, weights),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.joint_topk(logits, weights, k=K),
        eager=lambda: eager.joint_topk(logits, weights, K),
        summary=_first,
    )


def select_branches(case: Case) -> Job:
    logits = peaked_logits(*case.shape, seed=0, dtype=case.torch_dtype)
    return Job(
        op="select_branches",
        inputs=(logits,),
        exponentials=logits.numel(),
        ours=lambda: mtp_ext.select_branches(logits, top_p=TOP_P, max_branches=MAX_BRANCHES),
        eager=lambda: eager.select_branches(logits, TOP_P, MAX_BRANCHES),
        # The mass kept: rounding may put the token at the edge of the nucleus in or out.
        summary=lambda result: result[1].exp().sum(-1),
    )


def tree_attention(case: Case) -> Job:
    return attention_job("tree_attention", random_trees(case))


def sibling_attention(case: Case) -> Job:
    return attention_job("tree_attention of siblings", siblings(case))


def attention_job(op: str, tree: TreeCase) -> Job:
    """Keys, values and queries are read once; a node and a head have two products with each key that the node sees."""
    dense = DenseAttention.of(tree)
    rows = dense.mask.shape[-1]
    inputs = (tree.query, tree.key, tree.value, tree.ancestors, tree.prefix_lengths)
    scores = tree.query.shape[2] * int(dense.mask.sum())
    return Job(
        op=op,
        inputs=(tree.query, tree.key[:, :rows], tree.value[:, :rows]),
        exponentials=scores,
        ours=lambda: mtp_ext.tree_attention(*inputs),
        eager=dense.sdpa,
        summary=_first,
        operations=4 * tree.query.shape[-1] * scores,
    )


def verify_greedy(case: Case) -> Job:
    work = Verification.of(case)
    return Job(
        op="verify_greedy",
        inputs=(work.rows_read(work.eager_greedy()),),
        exponentials=0,
        ours=lambda: mtp_ext.verify_greedy(work.tree, work.logits),
        eager=work.eager_greedy,
        summary=lambda result: result.nodes.float(),
    )


def verify_sampling(case: Case) -> Job:
    work = Verification.of(case)
    rows = work.rows_read(work.eager_sampling_of_visited(VERIFY_TOP_P))
    return Job(
        op="verify_sampling",
        inputs=(rows,),
        exponentials=rows.numel(),
        ours=lambda: mtp_ext.verify_sampling(
            work.tree, work.logits, work.uniforms, method="target_only", top_p=VERIFY_TOP_P
        ),
        eager=lambda: work.eager_sampling(VERIFY_TOP_P),
        summary=lambda result: result.nodes.float(),
    )


def commit_(case: Case) -> Job:
    work = Commit.of(case)
    moved = work.moved()
    return Job(
        op="commit_",
        inputs=(moved, moved),  # read and written
        exponentials=0,
        ours=work.ours,
        eager=work.eager,
        summary=lambda lengths: lengths.float(),
    )


def linear_weights(case: Case) -> list[Tensor]:
    """float32 weights [out, in] of bfloat16 numbers: copies of one, together more than any cache, since a model comes
    back to a layer only after all others."""
    _, in_features, out_features = case.shape
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0)) * in_features**-0.5
    weight = weight.bfloat16().float()
    return [weight.clone() for _ in range(min(max(2, (64 << 20) // weight.nbytes), 64))]


def _linear(case: Case) -> tuple[Tensor, Iterator[mtp_ext.PackedLinear], Iterator[Tensor], Tensor]:
    """x, our weights and torch's in turn, and the panels of one."""
    x = torch.randn(case.shape[0], case.shape[1], generator=torch.Generator().manual_seed(1))
    weights = linear_weights(case)
    packed = [mtp_ext.pack_linear(weight, case.torch_dtype) for weight in weights]
    return x, cycle(packed), cycle(weights), packed[0].panels


def skinny_linear(case: Case) -> Job:
    """Eager PyTorch has no product of bfloat16 weights in float32 arithmetic: it reads float32 ones."""
    x, packed, weights, panels = _linear(case)
    return Job(
        op="skinny_linear",
        inputs=(x, panels),
        exponentials=0,
        ours=lambda: mtp_ext.skinny_linear(x, next(packed)),
        eager=lambda: torch.nn.functional.linear(x, next(weights)),
        summary=_first,
    )


def skinny_linear_topk(case: Case) -> Job:
    x, packed, weights, panels = _linear(case)
    return Job(
        op="skinny_linear_topk",
        inputs=(x, panels),
        exponentials=0,
        ours=lambda: mtp_ext.skinny_linear_topk(x, next(packed), k=K),
        eager=lambda: torch.nn.functional.linear(x, next(weights)).topk(K),
        summary=_first,
    )


def _mixing(case: Case) -> tuple[list[Tensor], Tensor, Tensor]:
    """Layers [rows, hidden], weights [heads, layers] and a gradient of the mixtures."""
    heads, layers, rows, hidden = case.shape
    states = [torch.randn(rows, hidden, dtype=case.torch_dtype) for _ in range(layers)]
    return states, torch.randn(heads, layers).softmax(-1), torch.randn(heads, rows, hidden, dtype=case.torch_dtype)


def mix_layers(case: Case) -> Job:
    states, weights, _ = _mixing(case)
    return Job(
        op="mix_layers",
        inputs=(*states, weights),
        exponentials=0,
        ours=lambda: mtp_ext.mix_layers(states, weights),
        eager=lambda: eager.mix_layers(states, weights),
        summary=_first,
        operations=2 * weights.shape[0] * len(states) * states[0].numel(),
    )


def mix_layers_training(case: Case) -> Job:
    """Forward and backward: the gradients of the weights and of all layers."""
    with torch.inference_mode(False):
        states, weights, grad = _mixing(case)
        leaves = [x.requires_grad_() for x in (weights, *states)]

    def train(mix: Callable[..., Tensor]) -> Call:
        def step() -> tuple[Tensor, ...]:
            with torch.inference_mode(False), torch.enable_grad():
                return torch.autograd.grad(mix(leaves[1:], leaves[0]), leaves, grad)

        return step

    return Job(
        op="mix_layers, training",
        inputs=(*states, weights, grad),
        exponentials=0,
        ours=train(mtp_ext.mix_layers),
        eager=train(eager.mix_layers),
        summary=lambda gradients: gradients[1],  # that of the weights is a sum over all rows, in eager's bfloat16
        operations=6 * weights.shape[0] * len(states) * states[0].numel(),
    )


@dataclass(frozen=True)
class Op:
    """An op and what it is measured at.

    Attributes:
        make_job: the op at work on a case.
        shapes: of workloads.
        tiny: a shape that leaves nothing to do but the call.
        small: one that is enough for all threads to start and for all code to be loaded.
    """

    make_job: Callable[[Case], Job]
    shapes: tuple[tuple[int, ...], ...]
    tiny: tuple[int, ...] = (1, 2, 16)
    small: tuple[int, ...] = (1, 2, 40000)


JOBS: dict[str, Op] = {
    "marginalize": Op(marginalize, BRANCH_SHAPES),
    "marginalize_topk": Op(marginalize_topk, BRANCH_SHAPES),
    "marginalize_targets": Op(marginalize_targets, BRANCH_SHAPES),
    "joint_topk": Op(joint_topk, BRANCH_SHAPES),
    "linear_marginalize": Op(linear_marginalize, HIDDEN_SHAPES),
    "select_branches": Op(select_branches, LOGIT_SHAPES, (2, 16), (2, 40000)),
    "verify_greedy": Op(verify_greedy, VERIFY_SHAPES, (1, 1, 16), (1, 1, 40000)),
    "verify_sampling": Op(verify_sampling, VERIFY_SHAPES, (1, 1, 16), (1, 1, 40000)),
    "commit_": Op(commit_, COMMIT_SHAPES, (1, 1, 1, 1, 1, 16), (4, 1, 1, 300, 8, 128)),
    "tree_attention": Op(tree_attention, TREE_SHAPES, (1, 1, 1, 1, 1, 16), (1, 300, 64, 32, 8, 128)),
    "tree_attention of siblings": Op(sibling_attention, SIBLING_SHAPES, (1, 1, 2, 1, 1, 16), (1, 300, 64, 9, 3, 64)),
    "mix_layers": Op(mix_layers, MIX_SHAPES, (1, 2, 1, 16), (1, 2, 300, 576)),
    "mix_layers, training": Op(mix_layers_training, MIX_SHAPES, (1, 2, 1, 16), (1, 2, 300, 576)),
    "skinny_linear": Op(skinny_linear, LINEAR_SHAPES),
    "skinny_linear_topk": Op(skinny_linear_topk, HEAD_SHAPES),
}
