"""What the target accepts of a tree of drafts."""

from typing import NamedTuple

from torch import Tensor

from mtp_ext import ops
from mtp_ext.ops.verify_checks import of_requests
from mtp_ext.tree import TokenTree


class Accepted(NamedTuple):
    """The accepted path of each request, and the token after it.

    Attributes:
        nodes: int64 [batch, nodes], the path from the root, padded with -1.
        lengths: int64 [batch], nodes on the path, the root included; 0 for a request without nodes.
        next_tokens: int64 [batch], what follows the path: the root of the next tree. -1 where there is none: the
            target's logits for it hold NaN or +inf or are all -inf, or the request has no nodes.
    """

    nodes: Tensor
    lengths: Tensor
    next_tokens: Tensor


def verify_greedy(tree: TokenTree, target: Tensor) -> Accepted:
    """Accepts the children that are the target's most probable token, from the root down.

    The path and the next token are what greedy decoding would have written. Ties go to the lower token id. Only the
    logits of accepted nodes are read. Has no gradient.

    Args:
        tree: the drafts.
        target: the target's logits after each node, [batch, nodes, vocab], float32, bfloat16 or float16, contiguous
            in the last dimension; or its most probable tokens, int64 [batch, nodes], -1 where there is none.

    Returns:
        `Accepted`.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or device; on a CPU also a token beyond the vocabulary or a
            malformed tree.
    """
    return Accepted(*ops.verify_greedy(tree.tokens, tree.parents, target))


def verify_sampling(
    tree: TokenTree,
    target_logits: Tensor,
    uniforms: Tensor,
    *,
    method: str,
    draft_log_probs: Tensor | None = None,
    draft_rows: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    epsilon: float = 0.09,
    delta: float = 0.3,
) -> Accepted:
    """Accepts drafts so that path and next token are distributed as the target's own samples.

    Methods, of which the first three keep the target's distribution p exactly:

    - `target_only`: siblings were chosen, not drawn. A child is accepted with its probability under p, given that
      the siblings before it were refused.
    - `without_replacement`: siblings were drawn from q without replacement, in node order. A child is accepted with
      probability min(1, p / q); a refusal leaves max(p - q, 0) to the next sibling, and q without the refused token
      (SpecInfer, arXiv 2305.09781; Sequoia, arXiv 2402.12374).
    - `traversal`: the same drafts, looked at from the leaves to the root; what is refused below a node adds to the
      rate at which the node itself is accepted. On chains it accepts at least as much (arXiv 2505.12398), and so it did
      on all trees that were enumerated.
    - `typical`: Medusa's (arXiv 2401.10774), which is lossy. The longest path of tokens that are more probable than
      min(epsilon, delta * exp(-entropy)) is accepted, of several the most probable; only the next token is sampled.

    Where the shape of a tree depends on the tokens that were drawn, it may only do so through tokens on the path above.
    A child of zero probability under p is never accepted, one of zero probability under q is passed over. Equal
    siblings do no harm. The next token is the first one up to which more than a share `uniforms[b, -1]` of the
    remaining mass lies. Has no gradient.

    Args:
        tree: the drafts.
        target_logits: the target's after each node, [batch, nodes, vocab], float32, bfloat16 or float16, contiguous
            in the last dimension. Of most nodes they are not read.
        uniforms: float32 [batch, nodes + 1] in [0, 1): one a node, the last one for the next token; the root's is
            unused. Independent of the drafts.
        method: one of the above.
        draft_log_probs: float32 [q_rows, vocab], in nats: the distributions that siblings were really drawn from,
            after the drafter's own temperature and truncation; for `without_replacement` and `traversal` alone.
        draft_rows: int64 [batch, nodes], the row of `draft_log_probs` that a node was drawn from; the root's and that
            of padding are unused.
        temperature: of the target: 0, which is `verify_greedy`, or from 1e-30 to 1e30. This and the next three: one
            number, or one for each request, [batch], float32 (top_k: int64).
        top_k: from 1; then only the most probable tokens count, ties to the lower token id.
        top_p: in (0, 1]; then only the fewest of the rest that have this share of their mass.
        min_p: in [0, 1]; then only those of at least this share of the largest probability.
        epsilon, delta: in [0, 1], of `typical`.

    Returns:
        `Accepted`.

    Raises:
        ValueError, TypeError: an argument of a wrong shape, dtype or device, or missing, or not taken by the method;
            a number out of its range; on a CPU also an entry of a tensor out of its range, or a malformed tree.
    """
    batch, device = tree.tokens.shape[0], tree.tokens.device
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    per_request = [of_requests("verify_sampling", name, value, batch, device) for name, value in settings.items()]
    drafts = (method, draft_log_probs, draft_rows)
    accepted = ops.verify_sampling(
        tree.tokens, tree.parents, target_logits, uniforms, *drafts, *per_request, epsilon, delta
    )
    return Accepted(*accepted)
