"""What each kernel cannot do without, on a case of the benchmarks: bytes, each once, and operations."""

from collections.abc import Callable
from dataclasses import dataclass

SUM_CHUNK = 4096  # columns that one block of sum_branches_kernel reduces to 8 bytes
BOUND_BLOCK = 512  # columns that one bound is for
TERM, ROW = 16, 32  # bytes: of a branch and of a row between the two passes
K = 5  # of the benchmarks' top k
PATH = 5  # nodes that the benchmarks' drafts have accepted
TILE_ROWS, PART_KEYS, MOST_PARTS, MANY_BLOCKS = 64, 256, 64, 256  # of tree_attention.h


@dataclass(frozen=True)
class Work:
    """Of one launch. A multiply-add is two operations; those of the tensor cores are matrix operations."""

    bytes: int
    exponentials: int = 0
    operations: int = 0
    matrix_operations: int = 0


Shape = tuple[int, ...]
WorkOf = Callable[[Shape, int], Work]  # of a case's shape and the bytes of a number


def _chunks(vocab: int, width: int) -> int:
    return -(-vocab // width)


# ---- rows x branches x vocabulary ---------------------------------------------------------------------------


def sum_branches(shape: Shape, size: int) -> Work:
    """Each logit is read once, for the largest of 4,096 and the sum of their exponentials."""
    rows, branches, vocab = shape
    logits = rows * branches * vocab
    return Work(logits * size + rows * branches * (4 + 8 * _chunks(vocab, SUM_CHUNK)), logits)


def prepare_mixtures(shape: Shape, size: int) -> Work:
    """A branch's weight and sums become a term of 16 bytes."""
    rows, branches, vocab = shape
    return Work(rows * branches * (4 + 8 * _chunks(vocab, SUM_CHUNK) + TERM) + rows * ROW)


def mix(shape: Shape, size: int) -> Work:
    """Each logit is read once more, from the L2 cache where all fit into it, and a float32 is written a column."""
    rows, branches, vocab = shape
    logits = rows * branches * vocab
    return Work(logits * size + rows * branches * TERM + rows * (ROW + 4 * vocab), logits)


def bound_blocks(shape: Shape, size: int) -> Work:
    """The largest logit of each 512 columns of each branch is read, and two bounds are written for 512 columns."""
    rows, branches, vocab = shape
    blocks = rows * _chunks(vocab, BOUND_BLOCK)
    return Work(4 * branches * blocks + rows * (branches * TERM + ROW) + 8 * blocks, branches * blocks)


def find_thresholds(shape: Shape, size: int) -> Work:
    """The lower bounds are read, and one threshold a row is written."""
    rows, _, vocab = shape
    return Work(4 * rows * _chunks(vocab, BOUND_BLOCK) + 4 * rows)


def select_columns(shape: Shape, size: int) -> Work:
    """The upper bounds are read, and one block of 512 mixed columns at least."""
    rows, _, vocab = shape
    return Work(rows * (4 * _chunks(vocab, BOUND_BLOCK) + 4 * min(BOUND_BLOCK, vocab) + 12 * K))


def mix_targets(shape: Shape, size: int) -> Work:
    """A logit of each branch is read, in a sector of 32 bytes of its own."""
    rows, branches, _ = shape
    return Work(rows * branches * (32 + TERM) + rows * (ROW + 8 + 4), rows * branches)


def joint_topk(shape: Shape, size: int) -> Work:
    """The largest logit of each 512 columns of each branch is read, and one block of 512 logits at least."""
    rows, branches, vocab = shape
    maxima = 4 * branches * _chunks(vocab, BOUND_BLOCK)
    return Work(rows * (maxima + branches * TERM + ROW + size * min(BOUND_BLOCK, vocab) + 20 * K))


# ---- branches x hidden x vocabulary -------------------------------------------------------------------------


def branch_normalizers(shape: Shape, size: int) -> Work:
    """Beside torch's product: a branch's sums become a normaliser of 16 bytes."""
    branches, _, vocab = shape
    return Work(branches * (8 * _chunks(vocab, SUM_CHUNK) + 16))


# ---- rows x vocabulary --------------------------------------------------------------------------------------


def select_branches(shape: Shape, size: int) -> Work:
    """Each logit is read once, and 12 bytes are written for each of 1,024 branches, few of which are none."""
    rows, vocab = shape
    return Work(rows * (vocab * size + 12 * min(1024, vocab)), rows * vocab)


# ---- batch x nodes x vocabulary -----------------------------------------------------------------------------


def verify_greedy(shape: Shape, size: int) -> Work:
    """The logits of the nodes on the accepted path (5 here) are read once."""
    batch, nodes, vocab = shape
    return Work(batch * (min(PATH, nodes) * vocab * size + 16 * nodes))


def verify_sampling(shape: Shape, size: int) -> Work:
    """The same, with an exponential each."""
    batch, nodes, vocab = shape
    path = min(PATH, nodes)
    return Work(batch * (path * vocab * size + 20 * nodes), batch * path * vocab)


# ---- layers x batch x prefix x accepted x KV heads x head_dim -----------------------------------------------


def commit(shape: Shape, size: int) -> Work:
    """Keys and values of the accepted nodes are read and written once; the root stays where it is."""
    layers, batch, _, accepted, kv_heads, head_dim = shape
    return Work(2 * 2 * layers * batch * (accepted - 1) * kv_heads * head_dim * size)


# ---- batch x prefix x nodes x heads x KV heads x head_dim ---------------------------------------------------


def append(shape: Shape, size: int) -> Work:
    """Keys and values of the nodes are read and written once."""
    batch, _, nodes, _, kv_heads, head_dim = shape
    return Work(2 * 2 * batch * nodes * kv_heads * head_dim * size)


def _parts(prefix: int, kv_heads: int) -> int:
    return max(1, min(_chunks(prefix, PART_KEYS), max(1, min(MANY_BLOCKS // kv_heads, MOST_PARTS))))


def _result(shape: Shape, size: int) -> int:
    """Bytes of the output and the LSE."""
    batch, _, nodes, heads, _, head_dim = shape
    return batch * nodes * heads * (head_dim * size + 4)


def _states(shape: Shape) -> int:
    """Bytes of the parts' states."""
    batch, prefix, nodes, heads, kv_heads, head_dim = shape
    rows = batch * nodes * heads
    return _parts(prefix, kv_heads) * rows * (head_dim + 2) * 4


def tree_attention(shape: Shape, size: int) -> Work:
    """The cache is read once, for two products of each key with each node and head that see it; a node sees the prefix
    and itself, at least. Where the prefix is cut into parts, each writes a state."""
    batch, prefix, nodes, heads, kv_heads, head_dim = shape
    cache = 2 * batch * kv_heads * (prefix + nodes) * head_dim * size
    query = batch * nodes * heads * head_dim * size
    scores = batch * nodes * heads * (prefix + 1)
    written = _result(shape, size) if _parts(prefix, kv_heads) == 1 else _states(shape)
    products = 4 * head_dim * scores
    return Work(cache + query + written, scores, products if size == 4 else 0, products if size == 2 else 0)


def tree_attention_merge(shape: Shape, size: int) -> Work:
    """The parts' states are read once, mostly from the L2 cache."""
    _, prefix, _, _, kv_heads, _ = shape
    parts = _parts(prefix, kv_heads)
    return Work(_states(shape) + _result(shape, size) if parts > 1 else 0)


def merge_states(shape: Shape, size: int) -> Work:
    """Two rows of numbers and their LSEs are read, one is written."""
    return Work(3 * _result(shape, size))
