"""What the `linear_marginalize` ops share: their first arguments, which they check, and the mixtures of their rows.

The logits of a group of branches exist in a workspace, over the whole vocabulary, since a log-probability needs the
normaliser of its branch. So the product is done once, and the unembedding is read once a group. The first reading of
a chunk of logits, for the normalisers, is from the cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mtp_ext.ops import checks
from mtp_ext.ops.branch_normalizers import branch_normalizers, join_normalizers
from mtp_ext.ops.hidden_branches import HiddenBranches
from mtp_ext.ops.mix_branches import mix_branches
from mtp_ext.ops.vocab_head import CHUNK_BYTES, VocabHead, logits_dtype
from mtp_ext.ops.vocab_shards import VocabShards, open_shards
from mtp_ext.reference.skinny_linear import PANEL

SCHEMA = (
    "Tensor branch_hidden, Tensor unembedding, Tensor branch_log_probs, Tensor? indptr, Tensor? bias, float? softcap, "
    "int? out_features, bool renormalize, int workspace_bytes, str? group_name"
)
_LEAST_WORKSPACE = 4096
_MOST_BRANCHES = 1024  # of one product: more make it no faster
_MIXTURE_BYTES = 2 << 20  # of log-probabilities at a time


class LinearBranches:
    """The first arguments of the ops, those of SCHEMA in its order."""

    def __init__(
        self,
        branch_hidden: Tensor,
        unembedding: Tensor,
        branch_log_probs: Tensor,
        indptr: Tensor | None,
        bias: Tensor | None,
        softcap: float | None,
        out_features: int | None,
        renormalize: bool,
        workspace_bytes: int,
        group_name: str | None,
    ) -> None:
        self.branch_hidden, self.unembedding, self.branch_log_probs = branch_hidden, unembedding, branch_log_probs
        self.indptr, self.bias, self.softcap, self.out_features = indptr, bias, softcap, out_features
        self.renormalize, self.workspace_bytes, self.group_name = renormalize, workspace_bytes, group_name

    @property
    def rows(self) -> int:
        return self.branch_hidden.shape[0] if self.indptr is None else self.indptr.shape[0] - 1

    @property
    def vocab(self) -> int:
        """Tokens of this process's unembedding."""
        return self.unembedding.shape[0] if self.out_features is None else self.out_features

    def check_alone(self, op: str) -> None:
        """`check`, but where a group has to hear of a refusal: `open` does that."""
        if self.group_name is None or isinstance(self.branch_hidden, torch._subclasses.FakeTensor):
            self.check(op)

    def check(self, op: str) -> None:
        """Raises for what one process can see."""
        hidden, log_probs = self.branch_hidden, self.branch_log_probs
        _, width = checks.check_branches(op, hidden, log_probs, self.indptr, argument="branch_hidden", width="hidden")
        if self.out_features is None:
            shape: list[checks.Dimension] = [("vocab", None), ("hidden", width)]
            checks.check_tensor(op, "unembedding", self.unembedding, shape, checks.LOGIT_DTYPES, hidden)
        else:
            self._check_panels(op, width, self.out_features)
        if self.bias is not None:
            checks.check_tensor(op, "bias", self.bias, [("vocab", self.vocab)], checks.LOGIT_DTYPES, hidden)
        if self.softcap is not None:
            checks.check_number(op, "softcap", self.softcap)
            if not 0.0 < self.softcap < float("inf"):
                raise ValueError(f"{op}: softcap must be a positive number or None, got {self.softcap}")
        checks.check_flag(op, "renormalize", self.renormalize)
        checks.check_range(op, "workspace_bytes", self.workspace_bytes, _LEAST_WORKSPACE, 1 << 62)

    def _check_panels(self, op: str, in_features: int, out_features: int) -> None:
        checks.check_range(op, "out_features", out_features, 1, 1 << 31)
        shape: list[checks.Dimension] = [
            ("panels", -(-out_features // PANEL)),
            ("hidden", in_features),
            ("columns", PANEL),
        ]
        if isinstance(self.unembedding, Tensor) and self.unembedding.dtype == torch.bfloat16:
            shape[1:] = [("pairs", -(-in_features // 2)), ("columns", PANEL), ("pair", 2)]
        dtypes = [torch.float32, torch.bfloat16]
        checks.check_tensor(op, "panels of the unembedding", self.unembedding, shape, dtypes, self.branch_hidden)

    def check_workspace(self, op: str, vocab: int) -> None:
        """Raises unless the logits of one branch over so many tokens fit into the workspace."""
        packed = self.out_features is not None
        needed = vocab * logits_dtype(self.branch_hidden, self.unembedding, packed).itemsize
        if needed > self.workspace_bytes:
            raise ValueError(
                f"{op}: workspace_bytes must hold the logits of one branch, {needed} bytes, got {self.workspace_bytes}"
            )

    def facts(self) -> dict[str, float]:
        """What must be the same on all ranks of a group."""
        hidden = self.branch_hidden
        return {
            "rows": self.rows,
            "the number of branches": self.branch_log_probs.numel(),
            "the width of branch_hidden": hidden.shape[-1],
            "the bytes of a logit": logits_dtype(hidden, self.unembedding, self.out_features is not None).itemsize,
            "the checksum of branch_log_probs": int(self.branch_log_probs.contiguous().view(torch.int32).sum())
            % (1 << 31),
            "the checksum of indptr": 0 if self.indptr is None else int(self.indptr.sum()),
            "softcap": self.softcap or 0.0,
            "renormalize": self.renormalize,
            "workspace_bytes": self.workspace_bytes,
        }

    def open(self, op: str, **facts: float) -> VocabShards:
        """The slices of the vocabulary: this one alone, or those of the group, whose ranks must agree on `facts`."""
        if self.group_name is None:
            return VocabShards([self.vocab])
        refusal: Exception | None = None
        try:
            self.check(op)
        except (TypeError, ValueError) as error:
            refusal = error
        device = getattr(self.branch_hidden, "device", torch.device("cpu"))
        shards = open_shards(op, self.group_name, device, self.vocab if refusal is None else 0, refusal)
        shards.agree(op, {**self.facts(), **facts}, device)
        return shards

    def branches(self) -> HiddenBranches:
        return HiddenBranches(self.branch_hidden, self.branch_log_probs, self.indptr, self.renormalize)

    def head(self) -> VocabHead:
        return VocabHead(self.branch_hidden, self.unembedding, self.out_features, self.bias, self.softcap)

    def mixtures(self, shards: VocabShards) -> Iterator[tuple[int, Tensor]]:
        """(row, log-probabilities [rows, vocab] of that and the following rows), for all rows that have branches.

        Rows come in order, a few at a time; where sharded, over this process's slice of the vocabulary.
        """
        branches, head = self.branches(), self.head()
        if len(branches) == 0:
            return
        starts, row_of = branches.starts, branches.row.tolist()
        row_bytes = max(1, max(shards.sizes) * head.dtype.itemsize)
        group_count = -(-len(branches) // max(1, self.workspace_bytes // row_bytes))
        group_size = -(-len(branches) // group_count)
        workspace = branches.hidden.new_empty(group_size, head.vocab, dtype=head.dtype)
        rows_at_a_time = max(1, _MIXTURE_BYTES // max(1, 4 * head.vocab))
        log_weights = branches.log_weights.float()
        unfinished: Tensor | None = None  # [vocab]: of a row whose branches are in several groups
        for begin in range(0, len(branches), group_size):
            end = min(begin + group_size, len(branches))
            logits = workspace[: end - begin]
            normalizers = _multiply(head, branches.hidden[begin:end], logits, shards)
            last = row_of[end - 1]
            for row in range(row_of[begin], last + 1, rows_at_a_time):
                bounds = starts[row : min(row + rows_at_a_time, last + 1) + 1]
                cut = [min(max(start, begin), end) for start in bounds]
                of_rows = slice(cut[0] - begin, cut[-1] - begin)
                indptr = torch.tensor(cut, device=logits.device) - cut[0]
                mixed = mix_branches(logits[of_rows], log_weights[cut[0] : cut[-1]], normalizers[of_rows], indptr)
                if bounds[0] < begin and unfinished is not None:
                    torch.logaddexp(mixed[0], unfinished, out=mixed[0])
                    unfinished = None
                if bounds[-1] > end:
                    unfinished, mixed = mixed[-1].clone(), mixed[:-1]
                yield row, mixed

    def chunks(self, branches: HiddenBranches, head: VocabHead) -> Iterator[tuple[slice, slice, Tensor]]:
        """(branches, tokens, logits [branches, tokens]): all, a few at a time; all branches of some tokens together."""
        most = min(len(branches), _MOST_BRANCHES)
        width = head.chunk_width(most, min(self.workspace_bytes, CHUNK_BYTES))
        workspace = branches.hidden.new_empty(most * min(width, head.vocab), dtype=head.dtype)
        for first in range(0, head.vocab, width):
            tokens = slice(first, min(first + width, head.vocab))
            columns = tokens.stop - first
            for begin in range(0, len(branches), _MOST_BRANCHES):
                some = slice(begin, min(begin + _MOST_BRANCHES, len(branches)))
                rows = some.stop - begin
                logits = workspace[: rows * columns].view(rows, columns)
                head.write_logits(branches.hidden[some], first, tokens.stop, logits)
                yield some, tokens, logits


def _multiply(head: VocabHead, hidden: Tensor, logits: Tensor, shards: VocabShards) -> Tensor:
    """Writes the logits [m, vocab] of hidden [m, in] and returns their normalisers over all shards, float64 [m, 2]."""
    width = head.chunk_width(hidden.shape[0])
    parts = []
    for begin in range(0, head.vocab, width):
        chunk = logits[:, begin : begin + width]
        head.write_logits(hidden, begin, begin + chunk.shape[1], chunk)
        parts.append(branch_normalizers(chunk))
    if not parts:
        parts.append(branch_normalizers(logits))
    return join_normalizers(shards.gather(join_normalizers(torch.stack(parts))))
