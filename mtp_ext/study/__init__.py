"""The experiments of arXiv 2502.09419, on a real model."""
