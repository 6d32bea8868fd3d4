"""What a model expects after each token of a text, as targets for sequential heads, which know the tokens in between.

    p(x[t+n] | x[..t+n-1])

That is the model's own next-token distribution n - 1 places on, of the hidden states that are there already. After
Hydra's teacher loss, arXiv 2402.05109.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp_ext.heads.training.data import Block, collate
from mtp_ext.heads.training.states import States
from mtp_ext.heads.training.teacher import TaughtTargets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 256  # places whose logits exist at a time


@torch.no_grad()
def next_token_targets(
    states: States,
    blocks: Sequence[Block],
    model: "PreTrainedModel",
    *,
    furthest: int,
    k: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> TaughtTargets:
    """Targets for horizons 2 to `furthest`, each the `k` most probable tokens that the model gives after x[..t+n-1].

    Args:
        states: of the blocks, from the frozen model.
        blocks: of text.
        model: whose LM head reads them.
        progress: is told of tokens that are done.
    """
    log_probs, tokens = [], []
    for place, block in enumerate(blocks):
        hidden = states(collate(blocks, [place], model.device)).last_hidden[0]
        for some in hidden.split(_ROWS):
            best = _best(model, some, k)
            log_probs.append(best[0].cpu())
            tokens.append(best[1].int().cpu())
        progress(len(block.tokens))

    def shifted(parts: list[Tensor]) -> Tensor:
        # Past the end of a block comes the next one's start, where no target stands.
        whole = torch.cat(parts)
        return torch.stack([whole.roll(1 - horizon, 0) for horizon in range(2, furthest + 1)], 1)

    return TaughtTargets(blocks, shifted(tokens), shifted(log_probs))


def _best(model: "PreTrainedModel", hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and tokens, [rows, k]."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    softcap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    best = logits.topk(min(k, logits.shape[-1]))
    return best.values.float() - logits.logsumexp(-1, keepdim=True).float(), best.indices
