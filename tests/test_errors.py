"""Every refusal, word for word: from the public function, and from the op itself, kernel or reference."""

from typing import Any

import pytest
import torch

import mtp_ext
from mtp_ext.testing import has_kernel

PUBLIC = {
    "marginalize": lambda x, w, indptr, renormalize: mtp_ext.marginalize(x, w, indptr, renormalize=renormalize),
    "marginalize_topk": lambda x, w, indptr, k, renormalize: mtp_ext.marginalize_topk(
        x, w, indptr, k=k, renormalize=renormalize
    ),
    "marginalize_targets": lambda x, w, targets, indptr, renormalize: mtp_ext.marginalize_targets(
        x, w, targets, indptr, renormalize=renormalize
    ),
    "joint_topk": lambda x, w, indptr, k: mtp_ext.joint_topk(x, w, indptr, k=k),
    "select_branches": lambda logits, top_p, top_k, temperature, max_branches: mtp_ext.select_branches(
        logits, top_p=top_p, top_k=top_k, temperature=temperature, max_branches=max_branches
    ),
}
BRANCH_OPS = ["marginalize", "marginalize_topk", "marginalize_targets", "joint_topk"]

LOGITS, LOG_PROBS = torch.zeros(2, 3, 5), torch.zeros(2, 3)  # dense
FLAT_LOGITS, FLAT_LOG_PROBS = torch.zeros(3, 5), torch.zeros(3)  # ragged
DENSE = "branch_logits must be [rows, branches, vocab] float32, bfloat16 or float16 on cpu"
DENSE_WEIGHTS = "branch_log_probs must be [rows=2, branches=3] float32 on cpu"
FLAT = "branch_logits must be [m, vocab] float32, bfloat16 or float16 on cpu"
FLAT_WEIGHTS = "branch_log_probs must be [m=3] float32 on cpu"
POINTERS = "indptr must be [rows + 1] int64 on cpu"
ROWS = "logits must be [rows, vocab] float32, bfloat16 or float16 on cpu"
CONTIGUOUS, CALL = "must be contiguous in its last dimension", "call .contiguous() on it"
TARGETS = torch.zeros(2, dtype=torch.int64)
INDPTR = torch.tensor([0, 1, 3])


def arguments(op: str, x: Any, w: Any, indptr: Any = None) -> tuple[Any, ...]:
    """Those of torch.ops.mtp_ext, in order; what is not asked about is right."""
    return {
        "marginalize": (x, w, indptr, True),
        "marginalize_topk": (x, w, indptr, 2, True),
        "marginalize_targets": (x, w, TARGETS, indptr, True),
        "joint_topk": (x, w, indptr, 2),
    }[op]


def check(op: str, inputs: tuple[Any, ...], error: type[Exception], sentence: str) -> None:
    """Fails unless both ways of calling `op` refuse the inputs in these very words."""
    check_public(op, inputs, error, sentence)
    with pytest.raises(RuntimeError if has_kernel(op, "cpu") else error) as caught:
        getattr(torch.ops.mtp_ext, op)(*inputs)
    assert str(caught.value) == sentence


def check_public(op: str, inputs: tuple[Any, ...], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        PUBLIC[op](*inputs)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("op", BRANCH_OPS)
@pytest.mark.parametrize(
    ("x", "w", "error", "sentence"),
    [
        (LOGITS[0], LOG_PROBS, ValueError, f"{DENSE}, got [3, 5] float32 on cpu"),
        (LOGITS.double(), LOG_PROBS, TypeError, f"{DENSE}, got [2, 3, 5] float64 on cpu"),
        (LOGITS.to(torch.int32), LOG_PROBS, TypeError, f"{DENSE}, got [2, 3, 5] int32 on cpu"),
        (LOGITS.to(torch.complex64), LOG_PROBS, TypeError, f"{DENSE}, got [2, 3, 5] complex64 on cpu"),
        (LOGITS.to(torch.float8_e4m3fn), LOG_PROBS, TypeError, f"{DENSE}, got [2, 3, 5] float8_e4m3fn on cpu"),
        (torch.zeros(2, 3, 10)[..., ::2], LOG_PROBS, ValueError, f"branch_logits {CONTIGUOUS}, got stride 2; {CALL}"),
        (LOGITS, torch.zeros(5, 8), ValueError, f"{DENSE_WEIGHTS}, got [5, 8] float32 on cpu"),
        (LOGITS, torch.zeros(6), ValueError, f"{DENSE_WEIGHTS}, got [6] float32 on cpu"),
        (LOGITS, LOG_PROBS.bfloat16(), TypeError, f"{DENSE_WEIGHTS}, got [2, 3] bfloat16 on cpu"),
        (LOGITS, torch.zeros(3, 2).t(), ValueError, f"branch_log_probs {CONTIGUOUS}, got stride 2; {CALL}"),
    ],
)
def test_dense_branches(op: str, x: torch.Tensor, w: torch.Tensor, error: type[Exception], sentence: str) -> None:
    check(op, arguments(op, x, w), error, f"{op}: {sentence}")


@pytest.mark.parametrize("op", BRANCH_OPS)
@pytest.mark.parametrize(
    ("x", "w", "indptr", "error", "sentence"),
    [
        (LOGITS, FLAT_LOG_PROBS, INDPTR, ValueError, f"{FLAT}, got [2, 3, 5] float32 on cpu"),
        (FLAT_LOGITS, torch.zeros(4), INDPTR, ValueError, f"{FLAT_WEIGHTS}, got [4] float32 on cpu"),
        (FLAT_LOGITS, FLAT_LOG_PROBS, INDPTR.int(), TypeError, f"{POINTERS}, got [3] int32 on cpu"),
        (FLAT_LOGITS, FLAT_LOG_PROBS, INDPTR[None], ValueError, f"{POINTERS}, got [1, 3] int64 on cpu"),
    ],
)
def test_ragged_branches(
    op: str, x: torch.Tensor, w: torch.Tensor, indptr: torch.Tensor, error: type[Exception], sentence: str
) -> None:
    check(op, arguments(op, x, w, indptr), error, f"{op}: {sentence}")


@pytest.mark.parametrize("op", BRANCH_OPS)
@pytest.mark.parametrize(
    ("indptr", "sentence"),
    [
        (torch.tensor([0, 9, 1, 9, 3])[::2], f"indptr {CONTIGUOUS}, got stride 2; {CALL}"),
        (INDPTR[:0], "indptr must be [rows + 1], got [0]: even no rows need a 0"),
        (torch.tensor([1, 2, 3]), "indptr must start at 0, got indptr[0]=1"),
        (torch.tensor([-1, 2, 3]), "indptr must start at 0, got indptr[0]=-1"),
        (torch.tensor([0, 4, 3]), "indptr must ascend, got indptr[1]=4 before indptr[2]=3"),
        (torch.tensor([0]), "indptr must end at the number of branches, 3, got indptr[0]=0"),
        (torch.tensor([0, 1, 2]), "indptr must end at the number of branches, 3, got indptr[2]=2"),
        (torch.tensor([0, 2**40]), f"indptr must end at the number of branches, 3, got indptr[1]={2**40}"),
    ],
)
def test_indptr(op: str, indptr: torch.Tensor, sentence: str) -> None:
    check(op, arguments(op, FLAT_LOGITS, FLAT_LOG_PROBS, indptr), ValueError, f"{op}: {sentence}")


@pytest.mark.parametrize("op", BRANCH_OPS)
@pytest.mark.parametrize(
    ("x", "w", "indptr", "sentence"),
    [
        (LOGITS.tolist(), LOG_PROBS, None, "branch_logits must be a Tensor, got list"),
        (None, LOG_PROBS, None, "branch_logits must be a Tensor, got NoneType"),
        (LOGITS, LOG_PROBS.numpy(), None, "branch_log_probs must be a Tensor, got ndarray"),
        (FLAT_LOGITS, FLAT_LOG_PROBS, [0, 1, 3], "indptr must be a Tensor, got list"),
    ],
)
def test_what_is_no_tensor(op: str, x: Any, w: Any, indptr: Any, sentence: str) -> None:
    check_public(op, arguments(op, x, w, indptr), TypeError, f"{op}: {sentence}")


@pytest.mark.parametrize("op", BRANCH_OPS)
def test_devices(op: str) -> None:
    sentence = f"{op}: branch_log_probs must be [rows=2, branches=3] float32 on cpu, got [2, 3] float32 on meta"
    check_public(op, arguments(op, LOGITS, LOG_PROBS.to("meta")), ValueError, sentence)


@pytest.mark.parametrize(
    ("op", "k", "limit"),
    [
        ("marginalize_topk", 0, 5),
        ("marginalize_topk", -1, 5),
        ("marginalize_topk", 6, 5),
        ("joint_topk", 0, 1 << 20),
        ("joint_topk", (1 << 20) + 1, 1 << 20),
    ],
)
def test_k_out_of_range(op: str, k: int, limit: int) -> None:
    inputs = (LOGITS, LOG_PROBS, None, k, True)[: 5 if op == "marginalize_topk" else 4]
    check(op, inputs, ValueError, f"{op}: k must be from 1 to {limit}, got {k}")


@pytest.mark.parametrize("op", ["marginalize_topk", "joint_topk"])
@pytest.mark.parametrize(("k", "name"), [(2.0, "float"), ("2", "str"), (None, "NoneType"), ([2], "list")])
def test_k_is_an_integer(op: str, k: Any, name: str) -> None:
    inputs = (LOGITS, LOG_PROBS, None, k, True)[: 5 if op == "marginalize_topk" else 4]
    check_public(op, inputs, TypeError, f"{op}: k must be an integer, got {name}")


@pytest.mark.parametrize("op", ["marginalize", "marginalize_topk", "marginalize_targets"])
def test_renormalize_is_a_bool(op: str) -> None:
    inputs = (*arguments(op, LOGITS, LOG_PROBS)[:-1], "yes")
    check_public(op, inputs, TypeError, f"{op}: renormalize must be a bool, got str")


@pytest.mark.parametrize(
    ("targets", "error", "sentence"),
    [
        (torch.tensor([0, 5]), ValueError, "targets must be from 0 to 4, got targets[1]=5"),
        (torch.tensor([-1, 0]), ValueError, "targets must be from 0 to 4, got targets[0]=-1"),
        (TARGETS[:1], ValueError, "targets must be [rows=2] int64 on cpu, got [1] int64 on cpu"),
        (TARGETS[None], ValueError, "targets must be [rows=2] int64 on cpu, got [1, 2] int64 on cpu"),
        (TARGETS.int(), TypeError, "targets must be [rows=2] int64 on cpu, got [2] int32 on cpu"),
        (TARGETS.float(), TypeError, "targets must be [rows=2] int64 on cpu, got [2] float32 on cpu"),
        (torch.zeros(4, dtype=torch.int64)[::2], ValueError, f"targets {CONTIGUOUS}, got stride 2; {CALL}"),
    ],
)
def test_targets(targets: torch.Tensor, error: type[Exception], sentence: str) -> None:
    inputs = (LOGITS, LOG_PROBS, targets, None, True)
    check("marginalize_targets", inputs, error, f"marginalize_targets: {sentence}")


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"logits": LOGITS}, ValueError, f"{ROWS}, got [2, 3, 5] float32 on cpu"),
        ({"logits": FLAT_LOGITS.double()}, TypeError, f"{ROWS}, got [3, 5] float64 on cpu"),
        ({"logits": torch.zeros(5, 3).t()}, ValueError, f"logits {CONTIGUOUS}, got stride 3; {CALL}"),
        ({"top_p": 0.0}, ValueError, "top_p must be in (0, 1], got 0"),
        ({"top_p": -0.5}, ValueError, "top_p must be in (0, 1], got -0.5"),
        ({"top_p": 1.5}, ValueError, "top_p must be in (0, 1], got 1.5"),
        ({"top_p": torch.nan}, ValueError, "top_p must be in (0, 1], got nan"),
        ({"top_k": 0}, ValueError, "top_k must be from 1 to 5, got 0"),
        ({"top_k": 6}, ValueError, "top_k must be from 1 to 5, got 6"),
        ({"temperature": 0.0}, ValueError, "temperature must be a positive number, got 0"),
        ({"temperature": -1.0}, ValueError, "temperature must be a positive number, got -1"),
        ({"temperature": torch.inf}, ValueError, "temperature must be a positive number, got inf"),
        ({"temperature": torch.nan}, ValueError, "temperature must be a positive number, got nan"),
        ({"max_branches": 0}, ValueError, "max_branches must be from 1 to 1048576, got 0"),
        ({"max_branches": (1 << 20) + 1}, ValueError, "max_branches must be from 1 to 1048576, got 1048577"),
    ],
)
def test_select_branches(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("select_branches", selection(changes), error, f"select_branches: {sentence}")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logits": FLAT_LOGITS.tolist()}, "logits must be a Tensor, got list"),
        ({"top_p": "0.9"}, "top_p must be a number, got str"),
        ({"top_p": None}, "top_p must be a number, got NoneType"),
        ({"temperature": "hot"}, "temperature must be a number, got str"),
        ({"top_k": 1.5}, "top_k must be an integer, got float"),
        ({"max_branches": None}, "max_branches must be an integer, got NoneType"),
    ],
)
def test_select_branches_with_other_types(changes: dict[str, Any], sentence: str) -> None:
    check_public("select_branches", selection(changes), TypeError, f"select_branches: {sentence}")


def selection(changes: dict[str, Any]) -> tuple[Any, ...]:
    right = {"logits": FLAT_LOGITS, "top_p": 0.9, "top_k": None, "temperature": 1.0, "max_branches": 8}
    return tuple((right | changes).values())


@pytest.mark.parametrize("op", ["marginalize_topk", "joint_topk", "select_branches"])
def test_what_has_no_gradient_says_so(op: str) -> None:
    """Instead of a gradient of zero."""
    logits = LOGITS.clone().requires_grad_()
    inputs = selection({"logits": logits[0]}) if op == "select_branches" else arguments(op, logits, LOG_PROBS)
    result = PUBLIC[op](*inputs)
    log_probs = result.log_probs
    with pytest.raises(RuntimeError) as caught:
        log_probs[log_probs.isfinite()].sum().backward()
    assert str(caught.value) == f"{op}: has no gradient; call it under torch.no_grad() or detach its inputs"
