"""Cases, the float64 oracle and the error budget: what the tests and the benchmarks share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtp_ext import libraries, reference

EPS32 = torch.finfo(torch.float32).eps

# ---- Cases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BranchCase:
    """What every marginalization op takes, dense or ragged.

    Attributes:
        logits: [rows, branches, vocab], or [m, vocab] where ragged.
        log_probs: float32 [rows, branches], or [m]: log-weights of the branches, in nats.
        indptr: None, or int64 [rows + 1]; row r owns branches indptr[r] to indptr[r + 1].
    """

    logits: Tensor
    log_probs: Tensor
    indptr: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.logits.shape[0] if self.indptr is None else self.indptr.shape[0] - 1

    @property
    def vocab(self) -> int:
        return self.logits.shape[-1]

    def run(self, function: Callable[..., Any], **options: Any) -> Any:
        """Calls a public function of mtp_ext, or its namesake in mtp_ext.reference."""
        return function(self.logits, self.log_probs, indptr=self.indptr, **options)

    def oracle(self, op: str, **options: Any) -> Any:
        """The result of the op `op` in float64."""
        return self.double().run(getattr(reference, op), **options)

    def double(self) -> "BranchCase":
        return BranchCase(self.logits.double(), self.log_probs.double(), self.indptr)

    def to(self, device: str) -> "BranchCase":
        indptr = None if self.indptr is None else self.indptr.to(device)
        return BranchCase(self.logits.to(device), self.log_probs.to(device), indptr)

    def row(self, row: int) -> "BranchCase":
        """A batch of this one row, in the same form."""
        if self.indptr is None:
            return BranchCase(self.logits[row : row + 1], self.log_probs[row : row + 1])
        begin, end = self.indptr[row : row + 2].tolist()
        indptr = torch.tensor([0, end - begin], device=self.indptr.device)
        return BranchCase(self.logits[begin:end], self.log_probs[begin:end], indptr)

    def ragged(self) -> "BranchCase":
        """A dense case in ragged form."""
        rows, branches = self.log_probs.shape
        indptr = torch.arange(rows + 1, device=self.logits.device) * branches
        return BranchCase(self.logits.reshape(rows * branches, self.vocab), self.log_probs.reshape(-1), indptr)


def peaked_logits(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits [..., vocab] as a language model makes them: a Zipf-like base that all share, noise, and peaks.

    Shaped after SmolLM2-135M on English prose, whose figures are in brackets: standard deviation 2.9 (3.6),
    28 % of the variance shared between positions (43 %), top-p 0.99 nuclei of 4 to 4,000 tokens, half of them
    over 170 (1 to 15,000; 370).
    """
    *leading, vocab = shape
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randperm(vocab, generator=generator)
    logits = torch.randn(*leading, vocab, generator=generator).mul_(2.5).sub_(1.5 * (rank + 2.7).log())
    if logits.numel() == 0:
        return logits.to(dtype)
    peaks = min(8, vocab)
    strength = torch.rand(*leading, 1, generator=generator) * 16 - 8 - 1.5 * torch.arange(peaks)
    place = torch.randint(vocab, (*leading, peaks), generator=generator)
    logits.scatter_reduce_(-1, place, logits.amax(-1, keepdim=True) + strength, "amax")
    return logits.to(dtype)


def dense_case(
    rows: int, branches: int, vocab: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> BranchCase:
    """Real-looking branches, as many in every row; their weights do not sum to one."""
    return BranchCase(
        peaked_logits(rows, branches, vocab, seed=seed, dtype=dtype), _log_probs(rows, branches, seed=seed)
    )


def ragged_case(counts: Sequence[int], vocab: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> BranchCase:
    """Real-looking branches, `counts[r]` of them in row r."""
    m = sum(counts)
    indptr = torch.tensor([0, *counts]).cumsum(0)
    return BranchCase(peaked_logits(m, vocab, seed=seed, dtype=dtype), _log_probs(m, seed=seed), indptr)


def _log_probs(*shape: int, seed: int) -> Tensor:
    """Log-weights that fall off as those of the most probable tokens do, in float32."""
    generator = torch.Generator().manual_seed(seed + 1)
    place = torch.arange(shape[-1])
    return (-1.1 * (place + 1.5).log() - torch.rand(*shape, generator=generator)).float()


# ---- The error budget -------------------------------------------------------------------------------------


def error_budget(reference: Tensor, oracle: Tensor, scale: float = 1.0, eps: float = EPS32) -> float:
    """What float32 arithmetic may cost: twice the error of the float32 reference and of one rounding,
    2 * (max|reference - oracle| + eps * max(scale, max|oracle|)), maxima over the finite entries.

    Args:
        reference: the float32 result of the reference.
        oracle: its float64 result.
        scale: the least size of number that is rounded: 1 for log-probabilities, since a relative
            rounding error of a probability is an absolute one in nats (the log of 1 may not come out as 0); 0 for
            plain numbers.
    """
    finite = oracle.float().isfinite()
    expected = oracle[finite].double()
    if expected.numel() == 0:
        return 0.0
    error = (reference[finite].double() - expected).abs().max().item()
    return 2.0 * (error + eps * max(scale, expected.abs().max().item()))


def assert_within_budget(
    actual: Tensor, reference: Tensor, oracle: Tensor, scale: float = 1.0, eps: float = EPS32
) -> None:
    """Fails unless `actual` is as near to the float64 `oracle` as `error_budget` asks.

    Entries that are not finite as float32 numbers must match exactly: NaN where NaN, -inf where -inf.
    """
    assert actual.shape == reference.shape == oracle.shape, (actual.shape, reference.shape, oracle.shape)
    assert_same_non_finite(reference, oracle)
    assert_same_non_finite(actual, oracle)
    budget = error_budget(reference, oracle, scale, eps)
    error = (actual.double() - oracle)[oracle.float().isfinite()].abs()
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= budget, f"error {worst:.3g} is over the budget of {budget:.3g}"


def assert_same_non_finite(actual: Tensor, oracle: Tensor) -> None:
    """Fails unless NaN and infinities are where those of the oracle, rounded to float32, are."""
    expected = oracle.float()
    both_finite = actual.isfinite() & expected.isfinite()
    wrong = ~(both_finite | (actual == expected) | (actual.isnan() & expected.isnan()))
    assert not wrong.any(), (
        f"{int(wrong.sum())} entries are wrongly finite or not finite, the first at "
        f"{wrong.nonzero()[0].tolist()}: {actual[wrong][0].item()} for {expected[wrong][0].item()}"
    )


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Fails unless two results, tensors or tuples of them, are the same bit for bit; all NaNs are one."""
    if not isinstance(actual, Tensor):
        for one, other in zip(actual, expected, strict=True):
            assert_same_bits(one, other)
        return
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    numbers = ~(actual.isnan() & expected.isnan())
    actual, expected = actual[numbers], expected[numbers]
    if actual.dtype == torch.float32:
        actual, expected = actual.view(torch.int32), expected.view(torch.int32)
    assert torch.equal(actual, expected), f"{int((actual != expected).sum())} of {actual.numel()} differ"


# ---- The back end under test ------------------------------------------------------------------------------


def has_libraries(device: str) -> bool:
    """Whether a compiled library for this device is loaded; if not, its ops run on the reference."""
    return any(library.loaded and library.name.startswith(device) for library in libraries.LIBRARIES)


def has_kernel(op: str, device: str) -> bool:
    """Whether `op` has a kernel on this device."""
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(f"mtp_ext::{op}", key)
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs torch's CPU work on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
