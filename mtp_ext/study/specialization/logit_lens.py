"""The logit lens of every layer against the model's own next-token distribution.

    p_l = softmax(unembedding(norm(h_l))), l = 1 .. L;  p = p_L is the model's own
    KL(p || p_l) = sum_v p[v] (z[v] - z_l[v]) + logsumexp(z_l) - logsumexp(z)       (nats)

Logits z, z_l [tokens, vocab] exist for a chunk of tokens and one layer at a time: beside the log-sum-exp of each, all
that is kept is the cross term. The lens is that of nostalgebraist (2020), the figure one of arXiv 2502.09419.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtp_ext.integrations.model_head import ModelHead

_CHUNK_BYTES = 16 << 20  # of float32 logits; four of this size exist at a time


class LensDistances(NamedTuple):
    """Each float32 [layers, tokens].

    Attributes:
        kl: KL(p || p_l), in nats: what it costs to predict with the layer instead of the model.
        reverse_kl: KL(p_l || p).
        agrees: 1 where the layer's most probable token is the model's, 0 elsewhere.
    """

    kl: Tensor
    reverse_kl: Tensor
    agrees: Tensor


@torch.no_grad()
def lens_distances(states: Sequence[Tensor], last_hidden: Tensor, head: ModelHead) -> LensDistances:
    """Measures layers 1 to L, layer L among them: it reads what the model itself reads, and its distance is 0.

    Args:
        states: outputs of the layers 1 to L-1, each [tokens, hidden].
        last_hidden: [tokens, hidden], behind the final norm.
        head: the model's.
    """
    tokens, vocab = last_hidden.shape[0], head.unembedding.shape[0]
    out = last_hidden.new_empty(3, len(states) + 1, tokens, dtype=torch.float32)
    for chunk in torch.arange(tokens, device=last_hidden.device).split(max(1, _CHUNK_BYTES // (4 * vocab))):
        final = head.logits(last_hidden[chunk]).float()
        final_lse, final_best = final.logsumexp(-1), final.argmax(-1)
        probabilities = final.softmax(-1)
        for layer, state in enumerate([*states, None]):
            hidden = last_hidden[chunk] if state is None else head.norm(state[chunk])
            logits = head.logits(hidden).float()
            shift = logits.logsumexp(-1) - final_lse
            agrees = logits.argmax(-1) == final_best
            log_ratio = final - logits
            kl = torch.linalg.vecdot(probabilities, log_ratio) + shift
            reverse_kl = -torch.linalg.vecdot(logits.softmax(-1), log_ratio) - shift
            out[:, layer, chunk] = torch.stack([kl, reverse_kl, agrees.float()])
    return LensDistances(*out)
