"""Arguments of the `linear_marginalize` ops: hidden states, an unembedding, and branches as in the other ops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mtp_ext
from mtp_ext import reference
from mtp_ext.reference.linear_marginalize import branch_logits
from mtp_ext.testing import EPS32

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class LinearCase:
    """hidden [rows, branches, hidden] or [m, hidden], unembedding [vocab, hidden], and what `marginalize` takes."""

    hidden: Tensor
    unembedding: Tensor
    log_probs: Tensor
    indptr: Tensor | None = None
    bias: Tensor | None = None
    softcap: float | None = None

    @property
    def rows(self) -> int:
        return self.hidden.shape[0] if self.indptr is None else self.indptr.shape[0] - 1

    @property
    def vocab(self) -> int:
        return self.unembedding.shape[0]

    def run(self, op: str, **options: Any) -> Any:
        """The public function `op`, from the plain unembedding or the one in `options`."""
        return self._call(getattr(mtp_ext, op), **options)

    def reference(self, op: str = "linear_marginalize", **options: Any) -> Any:
        return self._call(getattr(reference, op), **options)

    def oracle(self, op: str = "linear_marginalize", **options: Any) -> Any:
        return self.map(lambda x: x if x.dtype == torch.int64 else x.double()).reference(op, **options)

    def _call(self, function: Callable[..., Any], **options: Any) -> Any:
        inputs = {"branch_hidden": self.hidden, "unembedding": self.unembedding, "branch_log_probs": self.log_probs}
        inputs |= {"indptr": self.indptr, "bias": self.bias, "softcap": self.softcap}
        return function(**(inputs | options))

    def map(self, change: Callable[[Tensor], Tensor]) -> "LinearCase":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(x) for name, x in values.items() if isinstance(x, Tensor)})

    def to(self, device: str) -> "LinearCase":
        return self.map(lambda x: x.to(device))

    @property
    def largest_logit(self) -> float:
        logits = branch_logits(self.hidden, self.unembedding, self.bias, None).nan_to_num(0.0, 0.0, 0.0).abs()
        return logits.max().item() if logits.numel() else 1.0

    @property
    def budget(self) -> dict[str, float]:
        """What rounding the logits to their dtype costs, as options of `assert_within_budget`."""
        if self.hidden.dtype == self.unembedding.dtype == torch.bfloat16:
            return {"eps": torch.finfo(torch.bfloat16).eps, "scale": self.largest_logit}
        return {"eps": EPS32}


def linear_case(
    counts: Sequence[int],
    hidden: int,
    vocab: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    weight_dtype: torch.dtype | None = None,
    dense: bool = False,
    bias: bool = False,
    softcap: float | None = None,
) -> LinearCase:
    """Branches of logits as peaked as a model's, `counts[r]` of them in row r; their weights do not sum to one."""
    generator = torch.Generator().manual_seed(seed)
    m = sum(counts)
    states = torch.randn(m, hidden, generator=generator).mul_(3.0)
    unembedding = torch.randn(vocab, hidden, generator=generator).mul_(hidden**-0.5).to(weight_dtype or dtype)
    log_probs = torch.randn(m, generator=generator)
    shift = torch.randn(vocab, generator=generator) if bias else None
    if dense:
        shape = (len(counts), counts[0] if counts else 0)
        return LinearCase(
            states.to(dtype).view(*shape, hidden), unembedding, log_probs.view(shape), None, shift, softcap
        )
    return LinearCase(states.to(dtype), unembedding, log_probs, torch.tensor([0, *counts]).cumsum(0), shift, softcap)


@st.composite
def linear_cases(draw: st.DrawFn, broken: bool = True) -> LinearCase:
    """Any dtypes, dense or ragged; `broken`: also dead branches, NaN and infinities."""
    counts = draw(st.lists(st.integers(0, 9), max_size=4))
    dense = draw(st.booleans())
    case = linear_case(
        [max(counts)] * len(counts) if dense and counts else counts,
        draw(st.sampled_from([1, 7, 64])),
        draw(st.sampled_from([1, 2, 31, 33, 255, 257, 1031])),
        seed=draw(st.integers(0, 99)),
        dtype=draw(st.sampled_from(DTYPES)),
        weight_dtype=draw(st.sampled_from(DTYPES)),
        dense=dense,
        bias=draw(st.booleans()),
        softcap=draw(st.sampled_from([None, 5.0])),
    )
    m = case.log_probs.numel()
    if broken and m:
        branch = st.integers(0, m - 1)
        for _ in range(draw(st.integers(0, 3))):
            case.log_probs.view(-1)[draw(branch)] = -torch.inf
        for _ in range(draw(st.integers(0, 1))):
            case.log_probs.view(-1)[draw(branch)] = draw(st.sampled_from([torch.nan, torch.inf]))
        for _ in range(draw(st.integers(0, 1))):
            case.hidden.view(m, -1)[draw(branch), 0] = torch.nan
    return case
