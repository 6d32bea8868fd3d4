"""Heads against marginalization: the strategies of the paper's table 1."""
