"""The functions of csrc/host where they are compiled, and their references where they are not."""

try:
    from mtp_ext._host import NgramIndex, best_first, merge_paths, optimal_shape, tree_structure
except ModuleNotFoundError:
    from mtp_ext.reference.ngram_index import NgramIndex  # type: ignore[assignment]  # the same methods
    from mtp_ext.reference.tree import best_first, merge_paths, optimal_shape, tree_structure

__all__ = ["NgramIndex", "best_first", "merge_paths", "optimal_shape", "tree_structure"]
