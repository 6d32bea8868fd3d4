"""What `distill` teaches: the model's marginals, against the sum over all paths of plain forward passes."""

import pytest
import torch

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import collate
from mtp_ext.heads.training.next_tokens import next_token_targets
from mtp_ext.heads.training.states import LiveStates
from mtp_ext.heads.training.teacher import Teacher, teach
from tests.training_cases import VOCAB, random_blocks, tiny_model


def _log_probs(model, tokens: list[int]) -> torch.Tensor:
    return model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)


def _dense(top) -> torch.Tensor:
    """[places, vocab] of the kept tokens."""
    return torch.full((len(top.tokens), VOCAB), -torch.inf).scatter(1, top.tokens, top.log_probs)


@pytest.fixture(scope="module")
def marginals():
    model, text = tiny_model(), torch.arange(5, 10)
    return model, text, Teacher(model, paths=VOCAB, k=VOCAB).marginals(text, 3)


def test_second_token_is_the_sum_over_all_next_tokens(marginals):
    model, text, (second, _) = marginals
    with torch.no_grad():
        for place in (0, 4):
            seen = text[: place + 1].tolist()
            first = _log_probs(model, seen)
            expected = torch.stack([first[y] + _log_probs(model, [*seen, y]) for y in range(VOCAB)]).logsumexp(0)
            torch.testing.assert_close(_dense(second)[place], expected, rtol=1e-4, atol=1e-4)


def test_third_token_is_the_sum_over_the_best_pairs(marginals):
    model, text, (_, third) = marginals
    with torch.no_grad():
        seen = text[:3].tolist()
        first = _log_probs(model, seen)
        pairs = torch.stack([first[y] + _log_probs(model, [*seen, y]) for y in range(VOCAB)]).flatten()
        best = pairs.topk(VOCAB)
        after = [_log_probs(model, [*seen, int(i) // VOCAB, int(i) % VOCAB]) for i in best.indices]
        expected = (best.values.log_softmax(0)[:, None] + torch.stack(after)).logsumexp(0)
    torch.testing.assert_close(_dense(third)[2], expected, rtol=1e-4, atol=1e-4)


def test_sequential_heads_are_taught_what_the_model_says_after_the_tokens_in_between():
    model, blocks = tiny_model(), random_blocks(3)
    states = LiveStates(MTPHeads.from_model(model, [2, 3], kind="sequential"), model)
    taught = next_token_targets(states, blocks, model, furthest=3, k=VOCAB)
    batch = collate(blocks, [2, 0])
    with torch.no_grad():
        for horizon in (2, 3):
            tokens, probs = taught(batch, horizon)
            rows = iter(range(len(tokens)))
            for place, positions in zip((2, 0), batch.positions(horizon), strict=True):
                for t in positions.nonzero().flatten().tolist():
                    expected = _log_probs(model, blocks[place].tokens[: t + horizon].tolist())
                    row = next(rows)
                    torch.testing.assert_close(probs[row].log(), expected[tokens[row]], rtol=1e-4, atol=1e-4)
            assert next(rows, None) is None


def test_targets_of_a_batch_are_those_of_its_blocks_and_are_kept(tmp_path):
    model, blocks = tiny_model(), random_blocks(4)
    teacher, device, file = Teacher(model, paths=4, k=3), torch.device("cpu"), tmp_path / "marginals.safetensors"
    targets = teach(teacher, blocks, 3, device, file, "this text")
    batch = collate(blocks, [2, 0])
    for horizon in (2, 3):
        expected = []
        for place in (2, 0):
            top = teacher.marginals(blocks[place].tokens, 3)[horizon - 2]
            positions = collate(blocks, [place]).positions(horizon)[0]
            expected.append((top.tokens[positions], top.log_probs[positions].exp()))
        tokens, probs = targets(batch, horizon)
        assert torch.equal(tokens, torch.cat([part[0] for part in expected]))
        assert torch.equal(probs, torch.cat([part[1] for part in expected]))
    again = teach(None, blocks, 3, device, file, "this text")  # from the file: no teacher is needed
    assert torch.equal(again(batch, 2)[1], targets(batch, 2)[1])
