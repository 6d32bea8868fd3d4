"""Host-side helpers of mtp_ext: integers and strings, no tensors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def compiler() -> str:
    """The compiler that built the libraries, with its version."""

# The following are documented where they are defined a second time, in mtp_ext.reference.tree.

def tree_structure(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def merge_paths(
    root_token: int, paths: Sequence[Sequence[int]], budget: int
) -> tuple[list[int], list[int], list[int]]: ...
def best_first(
    root_token: int, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]], budget: int
) -> tuple[list[int], list[int], list[float]]: ...
def optimal_shape(acceptance_rates: Sequence[float], nodes: int, max_depth: int) -> tuple[list[list[int]], float]: ...

class NgramIndex:
    """Documented in mtp_ext.reference.ngram_index."""

    def extend(self, tokens: Sequence[int]) -> None: ...
    def draft(self, nodes: int, depth: int) -> tuple[list[int], list[int], list[float]]: ...
