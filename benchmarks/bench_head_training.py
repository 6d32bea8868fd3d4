"""A training step of a transformer head, frozen backbone, SmolLM2's sizes, batch 4 x 256: ours, and the same step
written with plain PyTorch modules and a full [tokens, vocab] cross entropy. Both in one process, in turns; products in
bfloat16 by autocast, or in float32."""

import multiprocessing
import statistics
from copy import deepcopy
from time import thread_time
from typing import Any

import pytest
import torch
from process_memory import peak_growth
from pytest_benchmark.fixture import BenchmarkFixture
from round_robin import Call
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from mtp_ext.heads import LayerOutputs, MTPHeads
from mtp_ext.heads.training.data import Block
from mtp_ext.heads.training.loop import Training
from mtp_ext.heads.training.processes import Processes
from mtp_ext.heads.training.settings import Settings
from mtp_ext.testing import threads

BATCH, BLOCK, ROUNDS = 4, 256, 5
_VOCAB, _HIDDEN = 49_152, 576


def _model(arithmetic: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=_HIDDEN,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(getattr(torch, arithmetic)).eval().requires_grad_(False)


def _steps(arithmetic: str) -> dict[str, Call]:
    """One step of each; the hidden states of the frozen backbone are there already."""
    model, tokens = _model(arithmetic), torch.randint(_VOCAB, (BATCH, BLOCK))
    heads = MTPHeads.from_model(model, (2,)).float()
    states = torch.randn(BATCH, BLOCK, _HIDDEN, dtype=model.dtype)
    outputs = LayerOutputs((states,), states, tokens)
    blocks = [Block(row) for row in tokens]
    settings = Settings(horizons=(2,), batch=BATCH, block=BLOCK, epochs=1_000_000, arithmetic=arithmetic)
    training = Training(settings, model, heads, blocks, lambda batch: outputs, Processes(model.device))
    ours = training.run()
    plain = _PlainStep(model, tokens, states)
    return {"ours": lambda: next(ours), "plain": plain}


class _PlainStep:
    """The step as one would write it."""

    def __init__(self, model: LlamaForCausalLM, tokens: torch.Tensor, states: torch.Tensor) -> None:
        self._layer: Any = deepcopy(model.model.layers[-1]).float().requires_grad_(True).train()
        self._norm, self._rotary = model.model.norm, model.model.rotary_emb
        self._lm_head: nn.Module = model.lm_head
        self._tokens, self._states = tokens, states
        self._optimizer = torch.optim.AdamW(self._layer.parameters(), lr=1e-3)
        self._mixed = model.dtype == torch.bfloat16

    def __call__(self) -> torch.Tensor:
        positions = torch.arange(BLOCK)[None]
        rotation = self._rotary(self._states, positions)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._mixed):
            out = self._layer(self._states, position_ids=positions, position_embeddings=rotation)
            logits = self._lm_head(self._norm(out if isinstance(out, torch.Tensor) else out[0]))
            loss = cross_entropy(logits[:, :-2].flatten(0, 1), self._tokens[:, 2:].flatten())
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


def _peak_bytes(variant: str, arithmetic: str) -> int:
    """What the process grows by at most in a step, after one that allocates the optimizer's state."""
    torch.set_num_threads(1)
    step = _steps(arithmetic)[variant]
    step()
    return peak_growth(step)[0]


@pytest.mark.benchmark(group="speed")
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])  # --smallest takes the first: fast on any CPU
def test_head_training_step(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, arithmetic: str) -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {variant: pool.apply(_peak_bytes, (variant, arithmetic)) for variant in ("ours", "plain")}
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    with threads(1):
        steps = _steps(arithmetic)
        losses = {name: float(step().sum()) for name, step in steps.items()}
        assert abs(losses["ours"] - losses["plain"]) < 1e-2 * losses["plain"], losses

        def turn() -> None:
            for name, step in steps.items():
                start = thread_time()
                step()
                times[name].append(thread_time() - start)

        benchmark.pedantic(turn, rounds=1 if pytestconfig.getoption("--smallest") else ROUNDS)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    benchmark.extra_info["head_training"] = {"arithmetic": arithmetic, "seconds": seconds, "peak_bytes": peaks}
    words = [f"{name} {seconds[name]:.2f} s, {peaks[name] / 1e6:.0f} MB" for name in times]
    print(f"\na step of {BATCH} x {BLOCK} tokens, {arithmetic}: {'; '.join(words)}")
