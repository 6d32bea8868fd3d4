"""Losses of heads: against the formula, in chunks, with soft targets, with a sample of the vocabulary, balanced."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mtp_ext.heads.training import losses
from mtp_ext.heads.training.columns import ColumnSampler, frequent_tokens
from mtp_ext.heads.training.data import Block
from mtp_ext.heads.training.losses import head_losses, rms_scales
from mtp_ext.testing import assert_within_budget

ROWS, HIDDEN, VOCAB = 37, 16, 101


def _inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(ROWS, HIDDEN), torch.randn(VOCAB, HIDDEN), torch.randint(VOCAB, (ROWS,))


def _direct(hidden, unembedding, probs):
    """Losses [rows] and the gradient of their sum, from the full [rows, vocab] distribution."""
    hidden = hidden.detach().clone().requires_grad_()
    loss = cross_entropy(hidden @ unembedding.T, probs.to(hidden.dtype), reduction="none")
    loss.sum().backward()
    return loss.detach(), hidden.grad


@pytest.mark.parametrize("chunk_logits", [1, VOCAB * 8, 1 << 20])
@pytest.mark.parametrize("soft", [False, True])
def test_loss_and_gradient_equal_the_formula_for_any_chunk(monkeypatch, chunk_logits, soft):
    monkeypatch.setattr(losses, "_CHUNK_LOGITS", chunk_logits)
    hidden, unembedding, targets = _inputs()
    probs = torch.nn.functional.one_hot(targets, VOCAB).float()
    given = (targets, None)
    if soft:
        shares = torch.rand(ROWS, 3)
        tokens = torch.stack([torch.randperm(VOCAB)[:3] for _ in range(ROWS)])
        probs = torch.zeros(ROWS, VOCAB).scatter(1, tokens, shares / shares.sum(-1, keepdim=True))
        given = (tokens, shares)
    ours = hidden.clone().requires_grad_()
    loss = head_losses(ours, unembedding, *given)
    loss.sum().backward()
    oracle = _direct(hidden.double(), unembedding.double(), probs.double())
    reference = _direct(hidden, unembedding, probs)
    for got, expected, plain in zip((loss.detach(), ours.grad), oracle, reference, strict=True):
        assert_within_budget(got, expected, plain)


def test_gradient_follows_the_weight_of_each_row():
    hidden, unembedding, targets = _inputs(1)
    weights = torch.rand(ROWS)
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    (head_losses(ours, unembedding, targets) * weights).sum().backward()
    (cross_entropy(plain @ unembedding.T, targets, reduction="none") * weights).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_no_rows_no_loss():
    hidden, unembedding, targets = _inputs()
    empty = hidden[:0].requires_grad_()
    loss = head_losses(empty, unembedding, targets[:0])
    loss.sum().backward()
    assert loss.shape == (0,)
    assert empty.grad.shape == (0, HIDDEN)


def test_sampled_columns_leave_the_sum_of_exponentials_unbiased():
    hidden, unembedding, targets = _inputs(2)
    sampler = ColumnSampler([Block(torch.arange(20))], VOCAB, 60)
    sums = []
    for seed in range(4000):
        columns = sampler(targets, seed)
        assert (columns.tokens[columns.places[targets]] == targets).all()
        logits = hidden[:1].double() @ unembedding[columns.tokens].double().T + columns.offsets.double()
        sums.append(logits.exp().sum())
    estimates, truth = torch.stack(sums), (hidden[:1].double() @ unembedding.double().T).exp().sum()
    standard_error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - truth) < 4 * standard_error  # exceeded once in 16,000 seeds
    assert standard_error < 0.02 * truth


def test_all_columns_are_the_exact_loss():
    hidden, unembedding, targets = _inputs(3)
    columns = ColumnSampler([Block(torch.arange(20))], VOCAB, VOCAB)(targets, 0)
    sampled = head_losses(hidden, unembedding[columns.tokens], columns.places[targets], offsets=columns.offsets)
    torch.testing.assert_close(sampled, head_losses(hidden, unembedding, targets))


def test_frequent_tokens():
    text = [Block(torch.tensor([7, 7, 7, 3])), Block(torch.tensor([9, 3, 1, 9, 9, 9]))]
    assert frequent_tokens(text, VOCAB, 2).tolist() == [7, 9]
    assert frequent_tokens(text, VOCAB, 3).tolist() == [3, 7, 9]
    assert frequent_tokens(text, VOCAB, 100).tolist() == [1, 3, 7, 9]


def test_balanced_losses_have_the_rms_of_the_first_head():
    rows = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]), torch.tensor([0.1])]
    squares = torch.stack([loss.square().sum() for loss in rows])
    counts = torch.tensor([3.0, 2.0, 1.0])
    scales = rms_scales(squares, counts)
    rms = [(loss * scale).square().mean().sqrt() for loss, scale in zip(rows, scales, strict=True)]
    torch.testing.assert_close(torch.stack(rms), rms[0].expand(3))
    assert scales[0] == 1.0
    assert rms_scales(torch.zeros(2), torch.tensor([3.0, 0.0])).tolist() == [1.0, 1.0]
