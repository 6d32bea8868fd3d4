"""What follows the branches of a prompt, summed over them, without the logits of more than a chunk of branches.

Straight from hidden states where the end of the model is a `ModelHead`, as it is in nearly all; elsewhere the model's
own logits, a pass for each chunk.
"""

from typing import Protocol

from torch import Tensor

from mtp_ext.integrations.model_head import ModelHead
from mtp_ext.integrations.prefix import Prefix
from mtp_ext.linear_joint_topk import better_pairs, linear_joint_topk, no_pairs
from mtp_ext.linear_marginalize import linear_marginalize, linear_marginalize_topk
from mtp_ext.marginalize import TopPairs, TopTokens, joint_topk, marginalize, marginalize_topk

_CHUNK = 64  # branches of a pass whose logits are the model's own


class Siblings(Protocol):
    """The branches of one prompt, after the pass over them; `log_probs`, float32 [m], are always those of all."""

    def logits(self, count: int) -> Tensor:
        """[count, vocab] of the first branches: a chunk's worth of them."""

    def mixture(self, log_probs: Tensor, first: int, last: int) -> Tensor:
        """float32 [vocab]: log sum over the branches `first` to `last` of exp(log_probs) times what they predict."""

    def topk(self, log_probs: Tensor, k: int) -> TopTokens:
        """The k most probable second tokens, each [k], log-probabilities renormalised."""

    def joint_topk(self, log_probs: Tensor, k: int) -> TopPairs:
        """The k most probable pairs, each [k]."""


def siblings(prefix: Prefix, row: int, tokens: Tensor) -> Siblings:
    """The branches `tokens`, int64 [m], m at least 1, behind prompt `row`."""
    if prefix.head is None:
        return SiblingPasses(prefix, row, tokens)
    return SiblingStates(prefix.branch_hidden(row, tokens), prefix.head)


class SiblingStates:
    """By their last hidden states [m, hidden], from one pass."""

    def __init__(self, hidden: Tensor, head: ModelHead) -> None:
        self._hidden, self._head = hidden, head
        self._unembedding, self._bias, self._softcap = head.unembedding, head.bias, head.softcap

    def logits(self, count: int) -> Tensor:
        return self._head.logits(self._hidden[:count])

    def mixture(self, log_probs: Tensor, first: int, last: int) -> Tensor:
        return linear_marginalize(
            self._hidden[None, first:last],
            self._unembedding,
            log_probs[None, first:last],
            bias=self._bias,
            softcap=self._softcap,
            renormalize=False,
        )[0]

    def topk(self, log_probs: Tensor, k: int) -> TopTokens:
        top = linear_marginalize_topk(
            self._hidden[None], self._unembedding, log_probs[None], k=k, bias=self._bias, softcap=self._softcap
        )
        return TopTokens(*(field[0] for field in top))

    def joint_topk(self, log_probs: Tensor, k: int) -> TopPairs:
        return linear_joint_topk(
            self._hidden, self._unembedding, log_probs, k=k, bias=self._bias, softcap=self._softcap
        )


class SiblingPasses:
    """By passes of a chunk of them at a time."""

    def __init__(self, prefix: Prefix, row: int, tokens: Tensor) -> None:
        self._prefix, self._row, self._tokens = prefix, row, tokens

    def logits(self, count: int) -> Tensor:
        return self._prefix.branch_logits(self._row, self._tokens[:count])

    def mixture(self, log_probs: Tensor, first: int, last: int) -> Tensor:
        chunks = [slice(begin, min(begin + _CHUNK, last)) for begin in range(first, last, _CHUNK)]
        parts = (
            marginalize(self._chunk(chunk)[None], log_probs[None, chunk], renormalize=False)[0] for chunk in chunks
        )
        mixture = next(parts)
        for part in parts:
            mixture = mixture.logaddexp(part)
        return mixture

    def topk(self, log_probs: Tensor, k: int) -> TopTokens:
        mixture = self.mixture(log_probs, 0, self._tokens.shape[0])
        top = marginalize_topk(mixture[None, None], mixture.new_zeros(1, 1), k=k)
        return TopTokens(*(field[0] for field in top))

    def joint_topk(self, log_probs: Tensor, k: int) -> TopPairs:
        best = no_pairs(k, log_probs.device)
        for first in range(0, self._tokens.shape[0], _CHUNK):
            chunk = slice(first, first + _CHUNK)
            best = better_pairs(best, joint_topk(self._chunk(chunk)[None], log_probs[None, chunk], k=k), first)
        return best

    def _chunk(self, chunk: slice) -> Tensor:
        return self._prefix.branch_logits(self._row, self._tokens[chunk])
