"""What the lossless methods write, counted: chi-squared tests with fixed seeds, of a false-alarm rate of 1e-6 each."""

from typing import Any

import pytest
import torch
from acceptance import Language
from torch import Tensor

import mtp_ext
from mtp_ext.reference.truncate import truncated_softmax
from mtp_ext.testing import has_kernel, peaked_logits
from mtp_ext.testing_verify import SAMPLED

FALSE_ALARM = 1e-6
VOCAB = 4
LOSSLESS = ["target_only", *SAMPLED]
SHAPES = {
    "chain": [-1, 0, 1],
    "tree": [-1, 0, 0, 1, 1, 2],
    "siblings": [-1, 0, 0, 0],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 2.0},
    "truncated": {"temperature": 1.3, "top_k": 3, "top_p": 0.9, "min_p": 0.05},
}


def p_value(counts: Tensor, probs: Tensor) -> float:
    """Of counts [cells] under these probabilities; impossible cells must be empty."""
    assert (counts[probs == 0] == 0).all()
    counts, expected = counts[probs > 0].double(), probs[probs > 0].double() * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2.0, dtype=torch.double)
    return float(torch.special.gammaincc(freedom, statistic / 2.0)) if len(counts) > 1 else 1.0


def contexts() -> list[tuple[int, ...]]:
    """All of up to two tokens; those of a context's children follow one another from its own number * VOCAB + 1 on."""
    one = [(token,) for token in range(VOCAB)]
    return [(), *one, *((*first, token) for first in one for token in range(VOCAB))]


def draw_tokens(shape: list[int], drafts: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """tokens [count, nodes], siblings without replacement; and each node's context [count, nodes]."""
    tokens = torch.zeros(count, len(shape), dtype=torch.int64)
    context = torch.zeros_like(tokens)
    for node in range(1, len(shape)):
        q = drafts[context[:, shape[node]]].exp()
        for elder in (i for i in range(1, node) if shape[i] == shape[node]):
            q.scatter_(1, tokens[:, elder, None], 0.0)
        tokens[:, node] = q.multinomial(1, generator=generator)[:, 0]
        context[:, node] = context[:, shape[node]] * VOCAB + 1 + tokens[:, node]
    return tokens, context


@pytest.mark.parametrize("method", LOSSLESS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pairs_of_tokens(device: str, method: str, settings: dict[str, Any], shape: list[int]) -> None:
    """The first two tokens, the second by the target itself where only one was written."""
    count = 20_000 if has_kernel("verify_sampling", device) else 2_000
    generator = torch.Generator().manual_seed(1)
    language = Language(VOCAB, seed=11, spread=1.2, dead=3)
    logits = torch.stack([language.target(context) for context in contexts()])
    drafts = torch.stack([language.draft(context) for context in contexts()])
    tokens, context = draw_tokens(shape, drafts, count, generator)
    if method == "target_only":  # chosen, not drawn: the same in every request, some of them twice
        tokens[:] = torch.tensor([0, 1, 1, 2, 0, 1])[: len(shape)]
        for node in range(1, len(shape)):
            context[:, node] = context[:, shape[node]] * VOCAB + 1 + tokens[:, node]
    options = {} if method == "target_only" else {"draft_log_probs": drafts, "draft_rows": context[:, shape]}
    tree = mtp_ext.TokenTree(tokens.to(device), torch.tensor(shape).repeat(count, 1).to(device), validate=False)
    uniforms = torch.rand(count, len(shape) + 1, generator=generator)
    options = {name: x.to(device) for name, x in options.items()}
    accepted = mtp_ext.verify_sampling(
        tree, logits[context].to(device), uniforms.to(device), method=method, **options, **settings
    )
    nodes, lengths, following = (part.cpu() for part in accepted)
    limits = [settings.get("temperature", 1.0), *(settings.get(name) for name in ("top_k", "top_p", "min_p"))]
    probs = torch.stack([truncated_softmax(row, *limits) for row in logits])
    first = tokens.gather(1, nodes[:, 1:2].clamp(min=0))[:, 0].where(lengths > 1, following)
    own = probs[first + 1].multinomial(1, generator=generator)[:, 0]
    second = tokens.gather(1, nodes[:, 2:3].clamp(min=0))[:, 0].where(lengths > 2, following).where(lengths > 1, own)
    counts = torch.bincount(first * VOCAB + second, minlength=VOCAB**2)
    expected = (probs[0, :, None] * probs[1 : VOCAB + 1]).flatten()
    assert p_value(counts, expected) > FALSE_ALARM


@pytest.mark.parametrize("method", LOSSLESS)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"temperature": 1.5, "top_k": 1000}], ids=str)
def test_a_real_vocabulary(device: str, method: str, settings: dict[str, Any]) -> None:
    """The next token after a root with three drafts, by what it leaves when divided by 16."""
    vocab = 9001
    count = 2_000 if has_kernel("verify_sampling", device) else 200
    generator = torch.Generator().manual_seed(2)
    target, other = peaked_logits(2, vocab, seed=5)
    draft = (0.6 * target + 0.4 * other).log_softmax(-1)
    noise = -torch.empty(count, vocab).exponential_(generator=generator).log_()
    drawn = (draft + noise).topk(3).indices  # without replacement
    if method == "target_only":
        drawn = target.topk(3).indices.expand(count, 3)
    tokens = torch.cat([torch.zeros(count, 1, dtype=torch.int64), drawn], 1).to(device)
    tree = mtp_ext.TokenTree(tokens, torch.tensor([-1, 0, 0, 0]).repeat(count, 1).to(device), validate=False)
    options = {} if method == "target_only" else {"draft_log_probs": draft[None], "draft_rows": tokens * 0}
    options = {name: x.to(device) for name, x in options.items()}
    uniforms = torch.rand(count, 5, generator=generator).to(device)
    logits = target.to(device).expand(count, 4, vocab)
    nodes, lengths, following = mtp_ext.verify_sampling(tree, logits, uniforms, method=method, **options, **settings)
    written = torch.where(lengths > 1, tokens.gather(1, nodes[:, 1:2].clamp(min=0))[:, 0], following).cpu()
    limits = [settings.get("temperature", 1.0), *(settings.get(name) for name in ("top_k", "top_p", "min_p"))]
    probs = truncated_softmax(target, *limits)
    expected = torch.zeros(16, dtype=torch.double).index_add(0, torch.arange(vocab) % 16, probs)
    assert p_value(torch.bincount(written % 16, minlength=16), expected) > FALSE_ALARM


def test_a_wrong_distribution_is_found() -> None:
    counts = torch.tensor([10_500, 10_000, 9_500])
    assert p_value(counts, torch.ones(3) / 3) < FALSE_ALARM
