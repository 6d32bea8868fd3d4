"""Accuracies on held-out text, against a count by hand, and the order of batches."""

import torch

from mtp_ext.heads import MTPHeads
from mtp_ext.heads.training.data import collate, epoch_batches
from mtp_ext.heads.training.states import LiveStates
from mtp_ext.heads.training.validation import validate
from tests.training_cases import random_blocks, tiny_model


def test_accuracies_are_those_of_each_head_counted_by_hand():
    model, blocks = tiny_model(), random_blocks(5)
    heads = MTPHeads.from_model(model, (2, 3), kind="transformer")
    found = validate(heads, LiveStates(heads, model), blocks, 2, heads.unembedding)
    assert {(accuracy.horizon, accuracy.kind) for accuracy in found} == {
        (n, k) for n in (1, 2, 3) for k in ("all", "text")
    }
    ranks, losses = {1: [], 2: [], 3: []}, {1: [], 2: [], 3: []}
    with torch.no_grad():
        for block in blocks:
            states = heads.layer_outputs(model, block.tokens[None])
            hidden = {1: states.last_hidden, **dict(zip((2, 3), heads(states), strict=True))}
            for horizon, all_states in hidden.items():
                logits = all_states[0] @ heads.unembedding.T
                for place in range(len(block.tokens) - horizon):
                    if place + horizon >= block.first_target:
                        target = block.tokens[place + horizon]
                        ranks[horizon].append(int((logits[place] > logits[place, target]).sum()))
                        losses[horizon].append(float(-logits[place].log_softmax(-1)[target]))
    for accuracy in found:
        own = torch.tensor(ranks[accuracy.horizon])
        assert accuracy.targets == len(own)
        assert (accuracy.top1, accuracy.top4, accuracy.top5) == tuple(
            float((own < k).double().mean()) for k in (1, 4, 5)
        )
        assert abs(accuracy.loss - sum(losses[accuracy.horizon]) / len(own)) < 1e-4


def test_equal_logits_are_ranked_by_token():
    model, blocks = tiny_model(), random_blocks(3)
    heads = MTPHeads.from_model(model, (2,), kind="mlp")
    found = validate(heads, LiveStates(heads, model), blocks, 4, torch.zeros_like(heads.unembedding))
    targets = torch.cat([collate(blocks, [place]).targets(2) for place in range(3)])
    assert next(a for a in found if a.horizon == 2).top5 == float((targets < 5).double().mean())


def test_every_epoch_has_each_block_once_in_another_order():
    blocks = random_blocks(50)
    first, again, second = (epoch_batches(blocks, 4, 7, epoch) for epoch in (0, 0, 1))
    assert first == again != second
    for batches in (first, second):
        assert sorted(place for batch in batches for place in batch) == list(range(50))
        assert len(batches) == 13
    spread = [max(len(blocks[i].tokens) for i in b) - min(len(blocks[i].tokens) for i in b) for b in first]
    assert sum(spread) / len(spread) < 6  # of lengths from 8 to 24: there is little padding
