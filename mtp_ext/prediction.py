"""The second token of a language model, with the first summed out: the paper's prediction in one call."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mtp_ext.branches import Branches, select_branches
from mtp_ext.marginalize import TopPairs, TopTokens, marginalize_topk
from mtp_ext.ops import checks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OP = "predict_marginal"


class MarginalPrediction(NamedTuple):
    """What a model expects of the next two tokens.

    Attributes:
        next: log-probabilities (nats) and tokens [batch, k] of the next token, most probable first.
        second: the same of the token after it, with the next one summed out.
        pairs: the most probable pairs [batch, k]; pair i of row r is the token
            `branches.tokens[r, pairs.branches[r, i]]` followed by `pairs.tokens[r, i]`.
        branches: the next tokens that were summed over. Their `dropped_mass` [batch] is the probability of
            all others: `second` is at most that far, in total variation, from the sum over all tokens.
    """

    next: TopTokens
    second: TopTokens
    pairs: TopPairs
    branches: Branches


@torch.no_grad()
def predict_marginal(
    model: "PreTrainedModel",
    input_ids: Tensor,
    *,
    top_p: float = 0.99,
    top_k: int | None = None,
    k: int = 5,
) -> MarginalPrediction:
    """Predicts the next token, and the one after it without deciding on the next one:

        p(x[t+2] | x[..t]) = sum over y of p(y | x[..t]) p(x[t+2] | x[..t], y)

    One forward pass over the prompts, then, for each prompt, one over its branches y, as siblings on its KV
    cache. Their logits exist a chunk of branches at a time.

    Args:
        model: a transformers causal language model in evaluation mode, which goes by position ids
            (`mtp_ext.integrations.transformers.load_model` loads one). Its branches run by tree attention, whatever
            its `attn_implementation`; where that does not serve it, through a mask of four dimensions.
        input_ids: int64 [batch, tokens], at least one token, prompts of equal length without padding, on the
            model's device.
        top_p: in (0, 1]; the branches are the most probable next tokens that add up to it, 1024 at most.
        top_k: at most this many branches.
        k: how many tokens and pairs to report, from 1 to vocab. Places beyond the last pair are -inf and -1.

    Returns:
        `MarginalPrediction(next, second, pairs, branches)`, log-probabilities float32 in nats.

    Raises:
        ValueError, TypeError: an argument out of its range or of a wrong shape or dtype; a token id that the
            model does not have; a prompt that leaves no position for a branch; a model that cannot run siblings
            (no position ids; or neither tree attention nor layers that see the whole prompt), or with logits not
            finite.

    Source: equation 6 of arXiv 2502.09419.
    """
    # These need transformers, which has made the model.
    from mtp_ext.integrations.prefix import open_prefix
    from mtp_ext.integrations.siblings import siblings

    _check(model, input_ids, k)
    prefix = open_prefix(model, *input_ids.shape)
    logits = prefix.extend(input_ids)
    branches = select_branches(logits, top_p=top_p, top_k=top_k)
    if (broken := (branches.counts == 0) | (branches.tokens[:, 0] < 0)).any():
        row = int(broken.nonzero()[0])
        raise ValueError(f"{_OP}: model must give finite logits, got NaN or infinity for input_ids[{row}]")

    second, pairs = [], []
    for row, count in enumerate(branches.counts.tolist()):
        behind = siblings(prefix, row, branches.tokens[row, :count])
        log_probs = branches.log_probs[row, :count]
        second.append(behind.topk(log_probs, k))
        pairs.append(behind.joint_topk(log_probs, k))
    certain = logits.new_zeros(logits.shape[0], 1, dtype=torch.float32)
    return MarginalPrediction(
        next=marginalize_topk(logits[:, None], certain, k=k),  # a mixture of one
        second=TopTokens(*map(torch.stack, zip(*second, strict=True))),
        pairs=TopPairs(*map(torch.stack, zip(*pairs, strict=True))),
        branches=branches,
    )


def _check(model: "PreTrainedModel", input_ids: Tensor, k: int) -> None:
    from mtp_ext.integrations.prefix import check_model
    from mtp_ext.integrations.tree_model import check_tokens

    check_model(_OP, model, input_ids.shape[-1] if isinstance(input_ids, Tensor) and input_ids.dim() > 0 else 0)
    check_tokens(_OP, "input_ids", input_ids, model)
    checks.check_range(_OP, "k", k, 1, model.config.get_text_config().vocab_size)
