"""Every refusal of verification and commit_, word for word: from the public function, and from the op itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

import mtp_ext
from mtp_ext.testing import has_kernel
from mtp_ext.verify import Accepted

TOKENS = torch.tensor([[0, 3, 4], [0, 1, 9]])
PARENTS = torch.tensor([[-1, 0, 0], [-1, 0, -2]])
TREE = {"tokens": TOKENS, "parents": PARENTS}
ONES = torch.ones(2)
# What is right, in the order of the op's arguments.
RIGHT: dict[str, dict[str, Any]] = {
    "verify_greedy": {**TREE, "target": torch.zeros(2, 3, 5)},
    "verify_sampling": {
        **TREE,
        "target_logits": torch.zeros(2, 3, 5),
        "uniforms": torch.zeros(2, 4),
        "method": "traversal",
        "draft_log_probs": torch.full((2, 5), -1.6),
        "draft_rows": torch.tensor([[-1, 0, 0], [-1, 1, -1]]),
        "temperature": ONES,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "epsilon": 0.1,
        "delta": 0.3,
    },
    "commit_": {
        "keys": [torch.zeros(2, 9, 2, 16)],
        "values": [torch.zeros(2, 9, 2, 24)],
        "prefix_lengths": torch.tensor([4, 6]),
        "nodes": torch.tensor([[0, 2, 3, -1], [0, 2, -1, -1]]),
        "lengths": torch.tensor([3, 2]),
        "page_table": None,
    },
}
ANY_FLOAT = "float32, bfloat16 or float16 on cpu"
CONTIGUOUS, CALL = "must be contiguous in its last dimension", "call .contiguous() on it"
PARENT_RULE = "parents must be -1 for node 0, -2 for padding at the end and an earlier node elsewhere, got"


def public(op: str, inputs: dict[str, Any]) -> Any:
    inputs = dict(inputs)
    if op == "commit_":
        accepted = Accepted(inputs.pop("nodes"), inputs.pop("lengths"), torch.zeros(2))
        lists = inputs.pop("keys"), inputs.pop("values")
        return mtp_ext.commit_(*lists, inputs.pop("prefix_lengths"), accepted, **inputs)
    tree = mtp_ext.TokenTree(inputs.pop("tokens"), inputs.pop("parents"), validate=False)
    return getattr(mtp_ext, op)(tree, **inputs)


def check(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    """Fails unless both ways of calling `op` refuse these changes in these very words."""
    check_public(op, changes, error, sentence)
    with pytest.raises(RuntimeError if has_kernel(op, "cpu") else error) as caught:
        getattr(torch.ops.mtp_ext, op)(*(RIGHT[op] | changes).values())
    assert str(caught.value) == f"{op}: {sentence}"


def check_public(op: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    assert changes.keys() <= RIGHT[op].keys()
    with pytest.raises(error) as caught:
        public(op, RIGHT[op] | changes)
    assert str(caught.value) == f"{op}: {sentence}"


def changed(tensor: Tensor, place: tuple[int, ...], value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_right_is_taken(op: str) -> None:
    public(op, RIGHT[op])
    getattr(torch.ops.mtp_ext, op)(*RIGHT[op].values())


# ---- The tree ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["verify_greedy", "verify_sampling"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parents": changed(PARENTS, (0, 0), 0)}, f"{PARENT_RULE} parents[0, 0]=0"),
        ({"parents": changed(PARENTS, (0, 1), 1)}, f"{PARENT_RULE} parents[0, 1]=1"),
        ({"parents": changed(PARENTS, (0, 1), 2)}, f"{PARENT_RULE} parents[0, 1]=2"),
        ({"parents": changed(PARENTS, (0, 2), -1)}, f"{PARENT_RULE} parents[0, 2]=-1"),
        ({"parents": changed(PARENTS, (1, 2), -3)}, f"{PARENT_RULE} parents[1, 2]=-3"),
        ({"parents": changed(PARENTS, (0, 1), -2)}, f"{PARENT_RULE} parents[0, 2]=0"),
        ({"parents": changed(PARENTS, (0, 2), 2**40)}, f"{PARENT_RULE} parents[0, 2]={2**40}"),
        ({"tokens": changed(TOKENS, (0, 1), 5)}, "tokens must be from 0 to 4, got tokens[0, 1]=5"),
        ({"tokens": changed(TOKENS, (1, 0), -1)}, "tokens must be from 0 to 4, got tokens[1, 0]=-1"),
    ],
)
def test_trees(op: str, changes: dict[str, Any], sentence: str) -> None:
    check(op, changes, ValueError, sentence)


@pytest.mark.parametrize(
    ("target", "error", "sentence"),
    [
        (torch.zeros(2, 3), ValueError, f"[batch=2, nodes=3, vocab] {ANY_FLOAT}, got [2, 3] float32 on cpu"),
        (torch.zeros(2, 4, 5), ValueError, f"[batch=2, nodes=3, vocab] {ANY_FLOAT}, got [2, 4, 5] float32 on cpu"),
        (
            torch.zeros(2, 3, 5).double(),
            TypeError,
            f"[batch=2, nodes=3, vocab] {ANY_FLOAT}, got [2, 3, 5] float64 on cpu",
        ),
        (torch.zeros(2, 4).long(), ValueError, "[batch=2, nodes=3] int64 on cpu, got [2, 4] int64 on cpu"),
        (torch.zeros(2, 3, 5).long(), ValueError, "[batch=2, nodes=3] int64 on cpu, got [2, 3, 5] int64 on cpu"),
    ],
)
def test_targets(target: Tensor, error: type[Exception], sentence: str) -> None:
    check("verify_greedy", {"target": target}, error, f"target must be {sentence}")


# ---- Sampling ---------------------------------------------------------------------------------------------

NO_DRAFTS = {"draft_log_probs": None, "draft_rows": None}
LOG_PROBS, ROWS = RIGHT["verify_sampling"]["draft_log_probs"], RIGHT["verify_sampling"]["draft_rows"]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"target_logits": torch.zeros(2, 2, 5)},
            ValueError,
            f"target_logits must be [batch=2, nodes=3, vocab] {ANY_FLOAT}, got [2, 2, 5] float32 on cpu",
        ),
        (
            {"target_logits": torch.zeros(2, 3, 10)[..., ::2]},
            ValueError,
            f"target_logits {CONTIGUOUS}, got stride 2; {CALL}",
        ),
        (
            {"uniforms": torch.zeros(2, 3)},
            ValueError,
            "uniforms must be [batch=2, nodes + 1=4] float32 on cpu, got [2, 3] float32 on cpu",
        ),
        (
            {"uniforms": torch.zeros(2, 4).double()},
            TypeError,
            "uniforms must be [batch=2, nodes + 1=4] float32 on cpu, got [2, 4] float64 on cpu",
        ),
        (
            {"uniforms": changed(torch.zeros(2, 4), (1, 3), 1.0)},
            ValueError,
            "uniforms must be in [0, 1), got uniforms[1, 3]=1",
        ),
        (
            {"uniforms": changed(torch.zeros(2, 4), (0, 1), -0.25)},
            ValueError,
            "uniforms must be in [0, 1), got uniforms[0, 1]=-0.25",
        ),
        (
            {"uniforms": changed(torch.zeros(2, 4), (0, 0), torch.nan)},
            ValueError,
            "uniforms must be in [0, 1), got uniforms[0, 0]=nan",
        ),
        (
            {"method": "greedy"},
            ValueError,
            "method must be target_only, without_replacement, traversal or typical, got 'greedy'",
        ),
        (
            NO_DRAFTS,
            ValueError,
            "method traversal must have draft_log_probs and draft_rows, got None",
        ),
        (
            {"method": "without_replacement", "draft_rows": None},
            ValueError,
            "method without_replacement must have draft_log_probs and draft_rows, got None",
        ),
        (
            {"method": "target_only"},
            ValueError,
            "method target_only takes no draft_log_probs or draft_rows, got a Tensor",
        ),
        (
            {"method": "typical", "draft_log_probs": None},
            ValueError,
            "method typical takes no draft_log_probs or draft_rows, got a Tensor",
        ),
        (
            {"draft_log_probs": torch.zeros(2, 6)},
            ValueError,
            "draft_log_probs must be [q_rows, vocab=5] float32 on cpu, got [2, 6] float32 on cpu",
        ),
        (
            {"draft_log_probs": torch.zeros(2, 5).half()},
            TypeError,
            "draft_log_probs must be [q_rows, vocab=5] float32 on cpu, got [2, 5] float16 on cpu",
        ),
        (
            {"draft_rows": torch.zeros(2, 4, dtype=torch.int64)},
            ValueError,
            "draft_rows must be [batch=2, nodes=3] int64 on cpu, got [2, 4] int64 on cpu",
        ),
        (
            {"draft_rows": changed(ROWS, (1, 1), 2)},
            ValueError,
            "draft_rows must be from 0 to 1, got draft_rows[1, 1]=2",
        ),
        (
            {"draft_rows": changed(ROWS, (0, 1), -1)},
            ValueError,
            "draft_rows must be from 0 to 1, got draft_rows[0, 1]=-1",
        ),
        (
            {"draft_rows": changed(ROWS, (0, 2), 1)},
            ValueError,
            "draft_rows must be the same for siblings, got draft_rows[0, 2]=1 beside 0",
        ),
        (
            {"draft_log_probs": changed(LOG_PROBS, (0, 4), 2.5)},
            ValueError,
            "draft_log_probs must not be above 0, got draft_log_probs[0, 4]=2.5",
        ),
        (
            {"draft_log_probs": changed(LOG_PROBS, (1, 1), torch.nan)},
            ValueError,
            "draft_log_probs must not be above 0, got draft_log_probs[1, 1]=nan",
        ),
        ({"epsilon": 1.5}, ValueError, "epsilon must be in [0, 1], got 1.5"),
        ({"delta": -0.5}, ValueError, "delta must be in [0, 1], got -0.5"),
    ],
)
def test_sampling(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("verify_sampling", changes, error, sentence)


SETTINGS = [
    ("temperature", "0 or from 1e-30 to 1e+30", [-1.0, 1e-31, 2e30, torch.nan, torch.inf]),
    ("top_p", "in (0, 1]", [0.0, -0.5, 1.5, torch.nan]),
    ("min_p", "in [0, 1]", [-0.5, 1.5, torch.nan]),
    ("top_k", "at least 1", [0, -3]),
]


@pytest.mark.parametrize(
    ("name", "expected", "value"), [(name, expected, value) for name, expected, values in SETTINGS for value in values]
)
def test_settings(name: str, expected: str, value: float) -> None:
    """A number for all requests, and one request's entry of a tensor."""
    check_public("verify_sampling", {name: value}, ValueError, f"{name} must be {expected}, got {value:g}")
    values = torch.tensor([1 if name == "top_k" else 1.0, value])
    sentence = f"{name} must be {expected}, got {name}[1]={float(values[1]):g}"
    check("verify_sampling", {name: values}, ValueError, sentence)


@pytest.mark.parametrize(("name", "_expected", "_values"), SETTINGS)
def test_settings_of_a_wrong_shape_or_type(name: str, _expected: str, _values: list[float]) -> None:
    dtype, wrong = ("int64", "float32") if name == "top_k" else ("float32", "int64")
    right = torch.ones(3, dtype=getattr(torch, dtype))
    expected = f"{name} must be [batch=2] {dtype} on cpu, got"
    check("verify_sampling", {name: right}, ValueError, f"{expected} [3] {dtype} on cpu")
    check("verify_sampling", {name: right[0]}, ValueError, f"{expected} [] {dtype} on cpu")
    check("verify_sampling", {name: right[:2].to(getattr(torch, wrong))}, TypeError, f"{expected} [2] {wrong} on cpu")
    check_public("verify_sampling", {name: "hot"}, TypeError, f"{name} must be a number, got str")
    check_public("verify_sampling", {name: True}, TypeError, f"{name} must be a number, got bool")


def test_settings_of_another_type() -> None:
    check_public("verify_sampling", {"top_k": 2.0}, TypeError, "top_k must be an integer, got float")
    check_public("verify_sampling", {"temperature": None}, TypeError, "temperature must be a Tensor, got NoneType")
    check_public("verify_sampling", {"epsilon": "small"}, TypeError, "epsilon must be a number, got str")


# ---- commit_ ----------------------------------------------------------------------------------------------

KEYS, NODES = RIGHT["commit_"]["keys"], RIGHT["commit_"]["nodes"]
ASCEND = "nodes must ascend from 0 to at most 3, got"


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"keys": KEYS * 2}, ValueError, "keys and values must be of the same layers, got 2 and 1"),
        (
            {"keys": [KEYS[0].double()]},
            TypeError,
            f"key must be [batch=2, capacity, kv_heads, head_dim] {ANY_FLOAT}, got [2, 9, 2, 16] float64 on cpu",
        ),
        (
            {"keys": [torch.zeros(3, 9, 2, 16)]},
            ValueError,
            "key must be [batch=2, capacity, kv_heads, head_dim] float32 on cpu, got [3, 9, 2, 16] float32 on cpu",
        ),
        (
            {"values": [torch.zeros(2, 8, 2, 24)]},
            ValueError,
            "value must be [batch=2, capacity=9, kv_heads=2, value_dim] float32 on cpu, "
            "got [2, 8, 2, 24] float32 on cpu",
        ),
        ({"lengths": torch.tensor([5, 2])}, ValueError, "lengths must be from 0 to 4, got lengths[0]=5"),
        ({"lengths": torch.tensor([3, -1])}, ValueError, "lengths must be from 0 to 4, got lengths[1]=-1"),
        (
            {"lengths": torch.tensor([3])},
            ValueError,
            "lengths must be [batch=2] int64 on cpu, got [1] int64 on cpu",
        ),
        (
            {"prefix_lengths": torch.tensor([4, 6]).int()},
            TypeError,
            "prefix_lengths must be [batch=2] int64 on cpu, got [2] int32 on cpu",
        ),
        (
            {"prefix_lengths": torch.tensor([-1, 6])},
            ValueError,
            "prefix_lengths must be at least 0, got prefix_lengths[0]=-1",
        ),
        (
            {"prefix_lengths": torch.tensor([4, 7])},
            ValueError,
            "the cache must hold prefix and nodes, got capacity 9 for prefix_lengths[1]=7 and node 2",
        ),
        ({"nodes": changed(NODES, (0, 0), 1)}, ValueError, f"{ASCEND} nodes[0, 0]=1"),
        ({"nodes": changed(NODES, (0, 2), 2)}, ValueError, f"{ASCEND} nodes[0, 2]=2"),
        ({"nodes": changed(NODES, (0, 2), 4)}, ValueError, f"{ASCEND} nodes[0, 2]=4"),
        ({"nodes": changed(NODES, (1, 1), -1)}, ValueError, f"{ASCEND} nodes[1, 1]=-1"),
        (
            {"page_table": torch.tensor([[0, 1], [2, 1]])},
            ValueError,
            "page_table must be from 0 to 1, got page_table[1, 0]=2",
        ),
        (
            {"page_table": torch.tensor([[0, 1]])},
            ValueError,
            "page_table must be [batch=2, pages] int64 on cpu, got [1, 2] int64 on cpu",
        ),
    ],
)
def test_commit(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    check("commit_", changes, error, sentence)


def test_what_a_refused_commit_leaves() -> None:
    """The cache as it was, even where it is the last request that does not fit."""
    keys = [torch.randn(2, 9, 2, 16)]
    before = keys[0].clone()
    check_public(
        "commit_",
        {"keys": keys, "prefix_lengths": torch.tensor([4, 7])},
        ValueError,
        "the cache must hold prefix and nodes, got capacity 9 for prefix_lengths[1]=7 and node 2",
    )
    assert torch.equal(keys[0], before)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_a_commit_has_no_gradient(name: str) -> None:
    changes = {name: [RIGHT["commit_"][name][0].clone().requires_grad_()]}
    check_public(
        "commit_", changes, RuntimeError, "has no gradient; call it under torch.no_grad() or detach its inputs"
    )
    with torch.no_grad():
        assert public("commit_", RIGHT["commit_"] | changes).tolist() == [7, 8]


# ---- Of all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("verify_greedy", "target"),
        ("verify_sampling", "target_logits"),
        ("verify_sampling", "uniforms"),
        ("verify_sampling", "draft_log_probs"),
        ("verify_sampling", "draft_rows"),
        ("verify_sampling", "temperature"),
        ("commit_", "prefix_lengths"),
        ("commit_", "lengths"),
    ],
)
def test_devices(op: str, name: str) -> None:
    with pytest.raises(ValueError, match="on meta") as caught:
        public(op, RIGHT[op] | {name: RIGHT[op][name].to("meta")})
    assert str(caught.value).startswith(f"{op}: {name} must be [")


@pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op in ("verify_greedy", "verify_sampling") for name in list(RIGHT[op])[2:4]]
)
def test_what_is_no_tensor(op: str, name: str) -> None:
    check_public(op, {name: [0, 1]}, TypeError, f"{name} must be a Tensor, got list")
