"""Draws arguments of the marginalization ops: shapes, strides, dtypes, ragged cuts, infinities and NaN."""

import torch
from hypothesis import strategies as st

from mtp_ext.testing import BranchCase, peaked_logits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One register, one block of sums, one tile, one chunk of the kernels, and what lies just beside them.
VOCABS = [1, 2, 3, 7, 15, 16, 17, 33, 127, 511, 513, 1031, 2049, 8191, 8193]
SCALES = [1.0, 0.0, 30.0, 3000.0]  # of real-looking logits; the last spreads them over 1e5 nats
SHIFTS = [0.0, 1e4, -1e4]


@st.composite
def branch_cases(draw: st.DrawFn, non_finite: bool = True) -> BranchCase:
    """A dense or ragged case of any strides with a contiguous last dimension.

    Args:
        draw: hypothesis' own.
        non_finite: also draw logits and weights of -inf, broken branches, and rows without branches.
    """
    dtype = draw(st.sampled_from(DTYPES))
    vocab = draw(st.sampled_from(VOCABS))
    most = 4 if vocab > 1000 else 40
    counts = draw(st.lists(st.integers(0 if non_finite else 1, most), max_size=4))
    dense = draw(st.booleans())
    if dense:
        counts = [max(counts)] * len(counts) if counts else []
    case = _draw_values(draw, sum(counts), vocab, dtype)
    if non_finite:
        _break(draw, case)
    logits = _restride(draw, case.logits)
    if not dense:
        return BranchCase(logits, case.log_probs, torch.tensor([0, *counts]).cumsum(0))
    shape = (len(counts), counts[0] if counts else draw(st.integers(0, 3)))
    return BranchCase(
        _restride(draw, case.logits.reshape(*shape, vocab)), _restride(draw, case.log_probs.reshape(shape))
    )


def _draw_values(draw: st.DrawFn, m: int, vocab: int, dtype: torch.dtype) -> BranchCase:
    seed = draw(st.integers(0, 99))
    logits = peaked_logits(m, vocab, seed=seed) * draw(st.sampled_from(SCALES)) + draw(st.sampled_from(SHIFTS))
    spread = draw(st.sampled_from([0.0, 1.0, 1e4]))
    log_probs = torch.rand(m, generator=torch.Generator().manual_seed(seed)) * -spread
    return BranchCase(logits.clamp(-6e4, 6e4).to(dtype), log_probs)


def _break(draw: st.DrawFn, case: BranchCase) -> None:
    m, vocab = case.logits.shape
    if m == 0:
        return
    branch, column = st.integers(0, m - 1), st.integers(0, vocab - 1)
    for _ in range(draw(st.integers(0, 2))):
        case.log_probs[draw(branch)] = -torch.inf
    for _ in range(draw(st.integers(0, 3))):
        case.logits[draw(branch), draw(column)] = -torch.inf
    if draw(st.booleans()):
        case.logits[:, draw(column)] = -torch.inf
    if draw(st.sampled_from([False, False, True])):
        case.logits[draw(branch), draw(column)] = draw(st.sampled_from([torch.nan, torch.inf]))
    if draw(st.sampled_from([False, False, True])):
        case.logits[draw(branch)] = -torch.inf
    if draw(st.sampled_from([False, False, False, True])):
        case.log_probs[draw(branch)] = draw(st.sampled_from([torch.nan, torch.inf]))


def _restride(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers as a slice of something larger, with the leading dimensions in another order."""
    if not draw(st.booleans()):
        return tensor
    order = draw(st.permutations(range(tensor.dim() - 1)))
    larger = torch.full([tensor.shape[i] + 1 for i in order] + [tensor.shape[-1] + 3], torch.nan, dtype=tensor.dtype)
    inverse = [order.index(i) for i in range(tensor.dim() - 1)]
    view = larger[..., 2 : 2 + tensor.shape[-1]].permute(*inverse, tensor.dim() - 1)
    view = view[tuple(slice(1, None) for _ in inverse)]
    view.copy_(tensor)
    return view
