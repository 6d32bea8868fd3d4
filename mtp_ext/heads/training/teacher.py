"""What a model itself expects two tokens ahead and further, at every place of a text, as targets for heads.

    p(x[t+n] | x[..t]) ~ sum over paths y of p(y | x[..t]) p(x[t+n] | x[..t], y)          y: n - 1 tokens

summed over the most probable paths: for n = 2 those of `select_branches`, for n > 2 the best pairs of `joint_topk`, of
a path and its next token. All places of a block run in one pass, as one tree: the text is its trunk, and at each of
its tokens the paths branch off.

Source: equation 6 of arXiv 2502.09419.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mtp_ext.branches import select_branches
from mtp_ext.heads.training.data import Batch, Block
from mtp_ext.heads.training.files import replace_file
from mtp_ext.integrations.prefix import serves_trees
from mtp_ext.integrations.tree_cache import TreeCache
from mtp_ext.integrations.tree_model import tree_attention_in, tree_forward
from mtp_ext.linear_marginalize import linear_marginalize_topk
from mtp_ext.marginalize import TopTokens, joint_topk
from mtp_ext.tree import TokenTree

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 16  # places whose paths have logits at a time, where paths are extended


class Teacher:
    """Marginals of a model that tree attention serves.

    Args:
        model: frozen, in evaluation mode.
        paths: how many are summed over at each place.
        k: how many of the marginal's tokens are kept.

    Raises:
        ValueError: a model that tree attention does not serve.
    """

    def __init__(self, model: "PreTrainedModel", *, paths: int, k: int) -> None:
        if not serves_trees(model):
            raise ValueError(
                "train: recipe distill needs a model that tree attention serves, a decoder whose layers see all tokens "
                f"or a sliding window, got {type(model).__name__}"
            )
        self._model, self._paths, self._k = model, paths, k
        self._head: Any = model.get_output_embeddings()
        self._softcap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)

    @torch.no_grad()
    def marginals(self, tokens: Tensor, furthest: int) -> list[TopTokens]:
        """Of x[t+2], x[t+3], ... up to x[t+furthest], at every place t of a text, int64 [tokens]: [tokens, k] each."""
        branches = select_branches(self._logits(self._hidden(tokens)), top_p=1.0, top_k=self._paths)
        paths, log_probs = branches.tokens[..., None], branches.log_probs  # [tokens, paths, depth]
        found = []
        for horizon in range(2, furthest + 1):
            ends = self._hidden(tokens, paths)  # [tokens, paths, hidden]
            found.append(
                linear_marginalize_topk(
                    ends, self._head.weight, log_probs, k=self._k, bias=self._head.bias, softcap=self._softcap
                )
            )
            if horizon < furthest:
                paths, log_probs = self._extend(paths, log_probs, ends)
        return found

    def _extend(self, paths: Tensor, log_probs: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable paths that are one token longer."""
        longer, sums = [], []
        for start in range(0, len(paths), _ROWS):
            some = slice(start, start + _ROWS)
            pairs = joint_topk(self._logits(ends[some]), log_probs[some], k=self._paths)
            before = paths[some].gather(1, pairs.branches[..., None].expand(-1, -1, paths.shape[2]))
            longer.append(torch.cat([before, pairs.tokens[..., None]], -1))
            sums.append(pairs.log_probs)
        return torch.cat(longer), torch.cat(sums)

    def _hidden(self, tokens: Tensor, paths: Tensor | None = None) -> Tensor:
        """Last hidden states [tokens, hidden] or, of the ends of the paths, [tokens, paths, hidden]."""
        count = len(tokens)
        nodes, parents = [tokens], [torch.arange(-1, count - 1, device=tokens.device)]
        if paths is not None:
            _, width, depth = paths.shape
            nodes.append(paths.flatten())
            before = torch.arange(count - 1, count - 1 + paths.numel(), device=tokens.device).view(paths.shape)
            before[..., 0] = parents[0][:, None] + 1  # the trunk
            parents.append(before.flatten())
        tree = TokenTree(torch.cat(nodes)[None], torch.cat(parents)[None])
        cache = TreeCache(self._model, 1, tree.tokens.shape[1])
        with tree_attention_in(self._model):
            hidden: Tensor = tree_forward(self._model.base_model, tree, cache).last_hidden_state[0]
        return hidden if paths is None else hidden[count:].view(count, width, depth, -1)[:, :, -1]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden)
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap


class TaughtTargets:
    """Marginals of all blocks, as targets of a training step.

    Args:
        blocks: of the text.
        furthest: horizon.
        tokens: int32 [places, furthest - 1, k], blocks one after the other; -1 where there are fewer.
        log_probs: float32, likewise, nats.
    """

    def __init__(self, blocks: Sequence[Block], tokens: Tensor, log_probs: Tensor) -> None:
        lengths = torch.tensor([len(block.tokens) for block in blocks])
        self._starts = (lengths.cumsum(0) - lengths).tolist()
        self._tokens, self._log_probs = tokens, log_probs

    def __call__(self, batch: Batch, horizon: int) -> tuple[Tensor, Tensor | None]:
        """Tokens and their probabilities [rows, k], at the batch's positions; for horizon 1 what was observed."""
        if horizon == 1:
            return batch.targets(1), None
        block, place = batch.positions(horizon).cpu().nonzero().unbind(-1)
        starts = torch.tensor([self._starts[number] for number in batch.places], dtype=torch.int64)
        rows = starts[block] + place
        device = batch.input_ids.device
        tokens, log_probs = self._tokens[rows, horizon - 2], self._log_probs[rows, horizon - 2]
        return tokens.long().clamp(min=0).to(device), log_probs.exp().to(device)


def teach(
    teacher: Teacher,
    blocks: Sequence[Block],
    furthest: int,
    device: torch.device,
    file: Path,
    identity: str,
    progress: Callable[[int], object] = lambda tokens: None,
) -> TaughtTargets:
    """The targets of all blocks, computed once and kept in `file`, which is used where it has this identity."""
    kept = _read(file, identity)
    if kept is None:
        parts = []
        for block in blocks:
            marginals = teacher.marginals(block.tokens.to(device), furthest)
            parts.append(tuple(torch.stack(part, 1).cpu() for part in zip(*marginals, strict=True)))
            progress(len(block.tokens))
        log_probs, tokens = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = {"tokens": tokens.int(), "log_probs": log_probs}
        tensors = kept
        replace_file(file, lambda path: save_file(tensors, path, metadata={"identity": identity}))
    else:
        progress(sum(len(block.tokens) for block in blocks))
    return TaughtTargets(blocks, kept["tokens"], kept["log_probs"])


def _read(file: Path, identity: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get("identity") == identity:
                return {name: opened.get_tensor(name) for name in ("tokens", "log_probs")}
    except (OSError, SafetensorError):
        pass
    return None


def identity_of(**facts: Any) -> str:
    """Facts as a string that is the same for the same facts."""
    return json.dumps(facts, sort_keys=True)
