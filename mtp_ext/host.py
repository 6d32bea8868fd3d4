"""The functions of csrc/host where they are compiled, and their references where they are not."""

try:
    from mtp_ext._host import best_first, merge_paths, optimal_shape, tree_structure
except ModuleNotFoundError:
    from mtp_ext.reference.tree import best_first, merge_paths, optimal_shape, tree_structure

__all__ = ["best_first", "merge_paths", "optimal_shape", "tree_structure"]
