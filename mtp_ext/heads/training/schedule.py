"""The learning rate: a cosine from its peak to zero."""

import math


def cosine(step: int, steps: int) -> float:
    """The share of the peak that step `step` of `steps`, counted from 0, learns with."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))
