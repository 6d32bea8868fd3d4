"""Which tokens temperature, top-k, top-p and min-p leave, seen by sampling with uniforms on a fine grid."""

from typing import Any

import pytest
import torch
from torch import Tensor

import mtp_ext

VOCAB = 9001  # two chunks of a kernel, the second one short
TOKENS = [8999, 17, 8192, 0, 9000, 8191, 16, 512]  # the k-th has a probability of 2^-(k + 1)
GRID = 2**9  # the rarest token has a share of 2^-8


def support(logits: Tensor, device: str, **settings: Any) -> list[int]:
    """The tokens that are sampled, in ascending order."""
    roots = torch.zeros(GRID, 1, dtype=torch.int64, device=device)
    tree = mtp_ext.TokenTree(roots, roots - 1, validate=False)
    uniforms = torch.stack([torch.zeros(GRID), (torch.arange(GRID) + 0.5) / GRID], 1)
    logits = logits.to(device).expand(GRID, 1, len(logits))
    accepted = mtp_ext.verify_sampling(tree, logits, uniforms.to(device), method="target_only", **settings)
    return accepted.next_tokens.unique().tolist()


@pytest.fixture
def halves() -> Tensor:
    """Logits [VOCAB] of eight tokens, each half as probable as the one before it; all others are impossible."""
    logits = torch.full((VOCAB,), -torch.inf)
    logits[TOKENS] = -torch.arange(len(TOKENS)) * torch.tensor(2.0).log() + 3.0
    return logits


@pytest.mark.parametrize("kept", [1, 2, 5])
@pytest.mark.parametrize(("side", "more"), [(1e-4, 0), (-1e-4, 1)])
def test_top_p_keeps_the_token_that_crosses_it(device: str, halves: Tensor, kept: int, side: float, more: int) -> None:
    mass = (1.0 - 2.0**-kept) / (1.0 - 2.0 ** -len(TOKENS))
    top_p = mass - side * 2.0**-kept
    assert support(halves, device, top_p=top_p) == sorted(TOKENS[: kept + more])


@pytest.mark.parametrize("kept", [1, 2, 5])
@pytest.mark.parametrize(("side", "more"), [(1e-4, 0), (-1e-4, 1)])
def test_min_p_is_a_share_of_the_largest(device: str, halves: Tensor, kept: int, side: float, more: int) -> None:
    assert support(halves, device, min_p=2.0**-kept * (1.0 + side)) == sorted(TOKENS[: kept + more])


@pytest.mark.parametrize("kept", [1, 2, 7, 8, 20, VOCAB, 10**9])
def test_top_k(device: str, halves: Tensor, kept: int) -> None:
    assert support(halves, device, top_k=kept) == sorted(TOKENS[:kept])


def test_top_p_is_of_what_top_k_leaves(device: str, halves: Tensor) -> None:
    """Of the two that are left the first has two thirds, though half of all."""
    assert support(halves, device, top_k=2, top_p=0.6) == [TOKENS[0]]
    assert support(halves, device, top_p=0.6) == sorted(TOKENS[:2])


def test_min_p_takes_nothing_from_top_p(device: str, halves: Tensor) -> None:
    """It comes last: the mass that it drops still counts."""
    assert support(halves, device, top_p=0.9, min_p=0.2) == sorted(TOKENS[:3])
    assert support(halves, device, top_k=4, top_p=0.9, min_p=0.2) == sorted(TOKENS[:3])
    assert support(halves, device, top_k=4, top_p=0.7, min_p=0.2) == sorted(TOKENS[:2])


def test_the_temperature_comes_first(device: str, halves: Tensor) -> None:
    """At one half each token has a quarter of the one before it: three quarters, and fifteen sixteenths."""
    assert support(halves, device, temperature=0.5, top_p=0.74) == [TOKENS[0]]
    assert support(halves, device, temperature=0.5, top_p=0.93) == sorted(TOKENS[:2])
    assert support(halves, device, temperature=0.5, min_p=0.06) == sorted(TOKENS[:3])


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 6, "top_p": 0.45}], ids=str)
def test_ties_go_to_the_lower_token(device: str, settings: dict[str, float]) -> None:
    """Of eight equal tokens three are left."""
    logits = torch.full((VOCAB,), -torch.inf)
    logits[TOKENS] = 7.0
    assert support(logits, device, **settings) == sorted(TOKENS)[:3]


def test_ties_are_all_above_min_p(device: str) -> None:
    logits = torch.full((VOCAB,), 1.0)
    logits[TOKENS] = 7.0
    assert support(logits, device, min_p=1.0) == sorted(TOKENS)


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"min_p": 1e-3}], ids=str)
def test_extreme_temperatures(device: str, halves: Tensor, temperature: float, settings: dict[str, float]) -> None:
    """Cold: the best token alone. Hot: all that are possible and not cut off, as often."""
    hot = settings.get("top_k", len(TOKENS))
    expected = TOKENS[:1] if temperature < 1 else TOKENS[:hot]
    assert support(halves, device, temperature=temperature, **settings) == sorted(expected)
