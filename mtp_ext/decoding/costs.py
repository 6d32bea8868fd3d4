"""How long a pass takes by its number of nodes: measured once, corrected by every pass."""

from collections.abc import Callable
from math import inf
from time import perf_counter
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from mtp_ext.decoding.target import Target

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MOST_NODES = SIZES[-1]
_ORDER = (1, 8, 16, 4, 2, 32, 12, 6, 3, 64, 24, 48)  # where the time does not suffice for all of them
_NEEDED = 4  # of these
_PATIENCE = 0.4  # seconds
_CORRECTION = 0.1  # of what a pass took more than was expected

# By model: one process decodes with it again and again.
_measured: "WeakKeyDictionary[object, dict[tuple[object, ...], PassCosts]]" = WeakKeyDictionary()


class PassCosts:
    """Seconds of a pass with 1 to 64 nodes a request, between the sizes that were measured linear.

    Args:
        seconds: by number of nodes; 1 must be among them. Beyond the largest a pass is as dear as the last step says.
    """

    def __init__(self, seconds: dict[int, float]) -> None:
        sizes = sorted(seconds)
        times = np.maximum.accumulate([seconds[size] for size in sizes])  # more nodes never take less: that was noise
        if sizes[-1] < MOST_NODES:
            slope = times[-1] / sizes[-1]
            sizes, times = [*sizes, MOST_NODES], np.append(times, times[-1] + slope * (MOST_NODES - sizes[-1]))
        self._seconds = np.interp(np.arange(1, MOST_NODES + 1), sizes, times)

    def up_to(self, nodes: int) -> NDArray[np.float64]:
        """[nodes]: seconds of passes with 1, 2, ..., `nodes` nodes a request."""
        return self._seconds[:nodes]

    @property
    def plain(self) -> float:
        """Seconds of a pass with one node."""
        return float(self._seconds[0])

    def learn(self, nodes: int, seconds: float) -> None:
        """A pass took so long: its like will, and in part all others: the prefix has grown, or the machine is busy."""
        if nodes > MOST_NODES:
            return
        # One hiccup must not decide for long.
        surprise = min(max(seconds / self._seconds[nodes - 1], 0.5), 2.0) - 1.0
        self._seconds *= 1.0 + _CORRECTION * surprise
        self._seconds[nodes - 1] *= 1.0 + _CORRECTION * surprise

    def for_batch(self, share: float) -> "PassCosts":
        """Where this share of the requests is left: a pass of as many nodes in all costs as much."""
        rows = np.maximum(np.arange(1, MOST_NODES + 1) * share, 1.0)
        seconds = np.interp(rows, np.arange(1, MOST_NODES + 1), self._seconds)
        return PassCosts({size: float(seconds[size - 1]) for size in range(1, MOST_NODES + 1)})

    def table(self) -> dict[int, float]:
        """Seconds by the sizes that are measured."""
        return {size: float(self._seconds[size - 1]) for size in SIZES}


def measured_costs(target: Target, batch: int, greedy: bool, run: Callable[[int], object]) -> PassCosts:
    """The costs of this target's passes; the first time they are measured, which takes a few hundred milliseconds.

    Args:
        run: runs a pass with as many nodes a request and waits for its result.
    """
    known = _measured.setdefault(getattr(target, "model", target), {})
    key = (type(target), batch, greedy, torch.get_num_threads())
    if key not in known:
        known[key] = PassCosts(_measure(run))
    return known[key]


def _measure(run: Callable[[int], object]) -> dict[int, float]:
    run(1)  # the first one finds nothing in the caches
    begin = perf_counter()
    seconds: dict[int, float] = {}
    for again in (False, True):
        for rank, size in enumerate(_ORDER):
            if perf_counter() - begin > _PATIENCE and (again or rank >= _NEEDED):
                break
            seconds[size] = min(seconds.get(size, inf), _time(run, size))
    return seconds


def _time(run: Callable[[int], object], size: int) -> float:
    begin = perf_counter()
    run(size)
    return perf_counter() - begin
