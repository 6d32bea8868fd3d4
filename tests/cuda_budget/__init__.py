"""What each CUDA kernel may use on each architecture: budget.toml, and what its machine code says."""
