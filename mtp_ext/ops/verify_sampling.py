"""Contract of `verify_sampling`."""

from typing import Any

import torch
from torch import Tensor

from mtp_ext import reference
from mtp_ext.ops import checks
from mtp_ext.ops.library import define, define_no_gradient
from mtp_ext.ops.verify_checks import check_setting, check_tokens, check_tree

_OP = "verify_sampling"
_METHODS = ("target_only", "without_replacement", "traversal", "typical")
_SAMPLED = ("without_replacement", "traversal")  # whose siblings are drawn from a distribution that is given
_ROUNDING = 1e-3  # nats by which a log-probability may be above 0


def _check(
    tokens: Tensor,
    parents: Tensor,
    target_logits: Tensor,
    uniforms: Tensor,
    method: str,
    draft_log_probs: Tensor | None,
    draft_rows: Tensor | None,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    epsilon: float,
    delta: float,
) -> None:
    check_tree(_OP, tokens, parents)
    batch, nodes = tokens.shape
    shape: list[checks.Dimension] = [("batch", batch), ("nodes", nodes), ("vocab", None)]
    checks.check_tensor(_OP, "target_logits", target_logits, shape, checks.LOGIT_DTYPES, tokens)
    check_tokens(_OP, tokens, parents, target_logits.shape[-1])
    checks.check_tensor(
        _OP, "uniforms", uniforms, [("batch", batch), ("nodes + 1", nodes + 1)], [torch.float32], tokens
    )
    if checks.has_values(uniforms) and (wrong := ~((uniforms >= 0) & (uniforms < 1))).any():
        b, i = wrong.nonzero()[0].tolist()
        raise ValueError(f"{_OP}: uniforms must be in [0, 1), got uniforms[{b}, {i}]={float(uniforms[b, i]):g}")
    if method not in _METHODS:
        raise ValueError(
            f"{_OP}: method must be target_only, without_replacement, traversal or typical, got {method!r}"
        )
    if method in _SAMPLED:
        if draft_log_probs is None or draft_rows is None:
            raise ValueError(f"{_OP}: method {method} must have draft_log_probs and draft_rows, got None")
        _check_drafts(tokens, parents, draft_log_probs, draft_rows, target_logits.shape[-1])
    elif draft_log_probs is not None or draft_rows is not None:
        raise ValueError(f"{_OP}: method {method} takes no draft_log_probs or draft_rows, got a Tensor")
    check_setting(_OP, "temperature", temperature, batch, tokens)
    check_setting(_OP, "top_k", top_k, batch, tokens)
    check_setting(_OP, "top_p", top_p, batch, tokens)
    check_setting(_OP, "min_p", min_p, batch, tokens)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        checks.check_number(_OP, name, value)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{_OP}: {name} must be in [0, 1], got {value:g}")


def _check_drafts(tokens: Tensor, parents: Tensor, draft_log_probs: Tensor, draft_rows: Tensor, vocab: int) -> None:
    shape: list[checks.Dimension] = [("q_rows", None), ("vocab", vocab)]
    checks.check_tensor(_OP, "draft_log_probs", draft_log_probs, shape, [torch.float32], tokens)
    shape = list(zip(("batch", "nodes"), tokens.shape, strict=True))
    checks.check_tensor(_OP, "draft_rows", draft_rows, shape, [torch.int64], tokens)
    if not (checks.has_values(draft_rows) and checks.has_values(draft_log_probs)):
        return
    q_rows = draft_log_probs.shape[0]
    for b, (links, rows, ids) in enumerate(zip(parents.tolist(), draft_rows.tolist(), tokens.tolist(), strict=True)):
        row_of: dict[int, int] = {}  # by parent
        for i in range(1, sum(parent != -2 for parent in links)):
            if not 0 <= rows[i] < q_rows:
                raise ValueError(
                    f"{_OP}: draft_rows must be from 0 to {q_rows - 1}, got draft_rows[{b}, {i}]={rows[i]}"
                )
            if row_of.setdefault(links[i], rows[i]) != rows[i]:
                raise ValueError(
                    f"{_OP}: draft_rows must be the same for siblings, got draft_rows[{b}, {i}]={rows[i]} "
                    f"beside {row_of[links[i]]}"
                )
            log_prob = float(draft_log_probs[rows[i], ids[i]])
            if not log_prob <= _ROUNDING:
                raise ValueError(
                    f"{_OP}: draft_log_probs must not be above 0, got draft_log_probs[{rows[i]}, {ids[i]}]={log_prob:g}"
                )


def _fake(tokens: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, nodes = tokens.shape
    return tokens.new_empty(batch, nodes), tokens.new_empty(batch), tokens.new_empty(batch)


verify_sampling = define(
    "verify_sampling(Tensor tokens, Tensor parents, Tensor target_logits, Tensor uniforms, str method, "
    "Tensor? draft_log_probs, Tensor? draft_rows, Tensor temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, "
    "float epsilon, float delta) -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=reference.verify_sampling,
    fake=_fake,
)

define_no_gradient("verify_sampling")
